"""Who may call, with what voice and model, and at what price: the example's whole business in four tables.

Pure data, made up. A real API has these in a database.
"""

from dataclasses import dataclass
from decimal import Decimal

DEFAULT_MODEL = "eleven_multilingual_v2"
MAX_CHARACTERS = 5_000  # a call; some six minutes of speech, 15 MB of sound
OPENER = " "
"""A WebSocket message of one space opens a session or keeps it alive. Nobody speaks it, and nobody pays for it."""


@dataclass(frozen=True, slots=True)
class Account:
    """One API key and whose it is. A user may have several keys and be in several groups."""

    api_key: str
    workspace: str
    user: str
    groups: tuple[str, ...]
    tier: str
    region: str
    """Where the user's data is kept and the calls are answered."""
    zone: str
    """The IANA time zone in which the user gets up and goes to bed."""


@dataclass(frozen=True, slots=True)
class Voice:
    """A voice as clients see it, and the engine's name for it."""

    voice_id: str
    name: str
    language: str
    accent: str
    gender: str
    engine_voice: str


@dataclass(frozen=True, slots=True)
class Model:
    """What a character costs, and how fast it is spoken."""

    model_id: str
    name: str
    credits_per_character: Decimal
    words_per_minute: int

    def price(self, characters: int) -> Decimal:
        """The exact credits for so many characters (Unicode code points)."""
        return characters * self.credits_per_character


_BERLIN, _KOLKATA = "Europe/Berlin", "Asia/Kolkata"

ACCOUNTS = {
    account.api_key: account
    for account in (
        Account("sk_acme_alice_website_7f3a", "acme", "alice", ("product", "leads"), "gold", "eu", _BERLIN),
        Account("sk_acme_alice_notebook_c1d8", "acme", "alice", ("product", "leads"), "gold", "eu", _BERLIN),
        Account("sk_acme_bob_callcentre_52be", "acme", "bob", ("support",), "gold", "eu", _BERLIN),
        Account("sk_acme_carol_audiobooks_e690", "acme", "carol", ("studio",), "gold", "eu", _BERLIN),
        Account("sk_acme_gerd_prototypes_1b27", "acme", "gerd", ("product",), "free", "eu", _BERLIN),
        Account("sk_globex_dinesh_games_0a4f", "globex", "dinesh", ("games",), "silver", "in", _KOLKATA),
        Account("sk_globex_esha_learning_b83d", "globex", "esha", ("learning", "leads"), "silver", "in", _KOLKATA),
        Account("sk_globex_farid_nightly_94c7", "globex", "farid", (), "silver", "in", _KOLKATA),
        Account("sk_globex_hema_captions_6d05", "globex", "hema", ("learning",), "silver", "in", _KOLKATA),
    )
}

VOICES = {
    voice.voice_id: voice
    for voice in (
        Voice("en-us", "Emma", "en", "american", "female", "en-us+f3"),
        Voice("en-gb", "George", "en", "british", "male", "en+m3"),
        Voice("de", "Hanna", "de", "standard", "female", "de+f2"),
        Voice("fr", "Louis", "fr", "standard", "male", "fr+m1"),
        Voice("es", "Lucía", "es", "castilian", "female", "es+f4"),
        Voice("pl", "Zofia", "pl", "standard", "female", "pl+f1"),
        Voice("hi", "Arjun", "hi", "standard", "male", "hi+m7"),
        Voice("cmn", "Mei", "zh", "mandarin", "female", "cmn+f2"),
    )
}

MODELS = {
    model.model_id: model
    for model in (
        Model(DEFAULT_MODEL, "Eleven Multilingual v2", Decimal("1"), 165),
        Model("eleven_v3", "Eleven v3", Decimal("1"), 150),
        Model("eleven_flash_v2_5", "Eleven Flash v2.5", Decimal("0.5"), 190),
    )
}


def billable(texts: list[str]) -> int:
    """The characters that a WebSocket session pays for, given the text of each of its messages."""
    return sum(len(text) for text in texts if text != OPENER)


def plain(credits: Decimal) -> str:
    """Credits as a header shows them: exact, without an exponent or needless zeros."""
    return f"{credits:f}".rstrip("0").rstrip(".") if credits % 1 else f"{credits:.0f}"
