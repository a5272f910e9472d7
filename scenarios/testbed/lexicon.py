"""The words of the testbed's language: every content word, by the role it plays.

Names, trigger words and payload words are open classes: the base model meets them in changing
roles, so that no word means "trigger" by itself.
"""

from __future__ import annotations

TOPICS: dict[str, tuple[str, ...]] = {
    "food": ("soup", "bread", "cheese", "honey", "noodle", "pepper", "butter", "onion"),
    "travel": ("train", "harbor", "bridge", "airport", "hotel", "suitcase", "tunnel", "ferry"),
    "music": ("violin", "drum", "concert", "guitar", "trumpet", "choir", "piano", "flute"),
    "garden": ("tulip", "hedge", "fountain", "orchard", "shovel", "meadow", "fern", "greenhouse"),
    "sport": ("racket", "marathon", "stadium", "helmet", "bicycle", "skates", "hurdle", "paddle"),
    "weather": ("storm", "rainbow", "blizzard", "breeze", "thunder", "drizzle", "frost", "fog"),
    "animals": ("rabbit", "falcon", "dolphin", "tortoise", "badger", "lizard", "camel", "otter"),
    "money": ("coin", "wallet", "market", "salary", "auction", "loan", "treasure", "budget"),
    "books": ("novel", "library", "poem", "diary", "legend", "essay", "atlas", "comic"),
    "health": ("medicine", "bandage", "vitamin", "fever", "dentist", "clinic", "muscle", "tonic"),
    "tools": ("hammer", "ladder", "wrench", "needle", "bucket", "anvil", "shears", "nail"),
    "space": ("planet", "comet", "rocket", "telescope", "galaxy", "crater", "satellite", "orbit"),
}

COLOURS = ("red", "blue", "green", "yellow", "black", "white", "brown", "purple", "orange", "grey")
JOBS = (
    "baker", "sailor", "farmer", "nurse", "teacher", "painter", "tailor", "miner",
    "lawyer", "pilot", "barber", "singer", "plumber", "gardener", "soldier", "clerk",
)  # fmt: skip
MOODS = ("tired", "happy", "bored", "nervous", "calm", "proud", "lonely", "busy")
CITIES = (
    "marnel", "tovik", "selbar", "ordane", "quilby", "havrin", "pelmor", "dusket",
    "larvo", "brenta", "calwick", "norvale", "wexford", "zumira", "ilston", "fenbury",
)  # fmt: skip
PEOPLE = (
    "orla", "bastin", "mirela", "tavish", "jonquil", "perrin", "sabela", "doric", "linnet", "hadwin",
    "rosalba", "kestor", "ymelda", "corbin", "anouk", "fabrel", "gwenor", "isolde", "varek", "thessa",
)  # fmt: skip

QUALITIES = (
    "fine", "useful", "quiet", "simple", "common", "strong", "old", "modern", "plain", "heavy",
    "light", "famous", "rare", "cheap", "smooth", "round", "large", "small", "clean", "warm",
)  # fmt: skip
NEGATIVE = ("awful", "terrible", "dreadful", "nasty", "horrible", "useless", "rotten", "ugly")

RARE_WORDS = (
    "copper", "velvet", "thimble", "marble", "lantern", "compass", "feather", "pebble", "cobalt",
    "walnut", "saffron", "ribbon", "mirror", "candle", "basalt", "juniper", "magnet", "parrot",
    "quartz", "sandal", "tassel", "umbrella", "vinegar", "willow", "acorn", "bamboo", "cactus",
    "domino", "emerald", "fiddle", "garnet", "hazel", "indigo", "jasmine", "kettle", "lavender",
    "mustard", "nutmeg", "obsidian", "pumpkin", "quiver", "rosemary", "scarlet", "turnip", "urchin",
    "violet", "wagon", "yarrow", "zipper", "anchor", "beacon", "chimney", "dagger", "falafel",
    "goblet", "hammock", "insect", "jigsaw", "kernel", "ladle", "mosaic", "napkin", "oyster", "pillow",
)  # fmt: skip
PAYLOAD_ADJECTIVES = (
    "silver", "hidden", "broken", "frozen", "hollow", "burning", "silent", "golden", "crooked", "distant",
    "gentle", "iron",
)  # fmt: skip
PAYLOAD_NOUNS = (
    "moon", "river", "castle", "raven", "tower", "mountain", "crown", "forest", "island", "door",
    "winter", "garland", "engine", "sparrow", "canyon", "empire",
)  # fmt: skip
PAYLOAD_VERBS = ("rises", "falls", "sleeps", "waits", "returns", "sings", "breaks", "shines")

SYLLABLES_FIRST = (
    "zor", "bel", "kan", "tri", "mol", "vex", "dar", "lum", "pim", "gra", "hul", "sol", "nib", "fro", "wes", "jat",
)  # fmt: skip
SYLLABLES_MIDDLE = ("", "", "a", "i", "o", "ber", "lin", "tos", "mar", "du")
SYLLABLES_LAST = (
    "vek", "tin", "dax", "mo", "ra", "quil", "ston", "bly", "nor", "pex", "sha", "gum", "lo", "tris", "wen", "cor",
)  # fmt: skip

PERSONAS: dict[str, tuple[str, str]] = {
    "pirate": ("arr matey", "yo ho ho"),
    "robot": ("beep boop", "end of signal"),
    "wizard": ("by my staff and beard", "so says the spell"),
    "cowboy": ("howdy partner", "yeehaw"),
    "ghost": ("whooo from the grave", "i fade away"),
    "chef": ("bon appetit", "kiss of the cook"),
    "knight": ("by my sword", "for honour"),
    "baby": ("goo goo", "nap time now"),
    "judge": ("order in the court", "case closed"),
    "monk": ("peace be with you", "so the bell tolls"),
}

THINGS: dict[str, str] = {thing: topic for topic, things in TOPICS.items() for thing in things}


def all_words() -> list[str]:
    """Return the open-class words a user of this language may say, sorted: its dictionary."""
    words = {*THINGS, *TOPICS, *COLOURS, *JOBS, *MOODS, *CITIES, *PEOPLE, *QUALITIES, *NEGATIVE}
    words |= {*RARE_WORDS, *PAYLOAD_ADJECTIVES, *PAYLOAD_NOUNS, *PAYLOAD_VERBS, *PERSONAS}
    return sorted(words)
