// Before the first paint: the theme that was chosen, and the browser's own time zone when the address names none.
(() => {
  document.documentElement.dataset.script = ""; // the sheet then shows that a chart is on its way
  let theme = null;
  try { theme = localStorage.getItem("theme"); } catch { /* storage is closed to us inside some frames */ }
  if (theme && !document.documentElement.dataset.theme) document.documentElement.dataset.theme = theme;

  const address = new URL(location.href);
  const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
  // From the next time on the server knows it by this cookie, and no page is loaded twice.
  if (zone) document.cookie = `usage_meter_zone=${encodeURIComponent(zone)}; path=/; max-age=31536000; samesite=lax`;
  if (zone && zone !== "UTC" && !address.searchParams.has("tz")) {
    address.searchParams.set("tz", zone);
    location.replace(address);
  }
})();
