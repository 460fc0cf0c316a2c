// Before the first paint: the theme that was chosen, and the browser's own time zone when the address names none.
(() => {
  let theme = null;
  try { theme = localStorage.getItem("theme"); } catch { /* storage is closed to us inside some frames */ }
  if (theme && !document.documentElement.dataset.theme) document.documentElement.dataset.theme = theme;

  const address = new URL(location.href);
  const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
  if (zone && zone !== "UTC" && !address.searchParams.has("tz")) {
    address.searchParams.set("tz", zone);
    location.replace(address);
  }
})();
