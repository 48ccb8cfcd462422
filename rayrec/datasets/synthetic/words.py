"""The topics of the synthetic world: the words of their titles and tags, their colours and places, and their sounds.

Topics 4i..4i+3 share a primary class, 2i and 2i+1 a secondary class. No word belongs to two topics. A topic's first five words are
also its tags.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle

import numpy as np

PRIMARY = ("food", "sport", "animals", "music", "travel", "making")
SECONDARY = (
    "baking",
    "cooking",
    "ball games",
    "board sports",
    "pets",
    "wildlife",
    "strings",
    "beats",
    "cities",
    "outdoors",
    "crafts",
    "workshop",
)


@dataclass(frozen=True)
class Topic:
    """Lists of words are separated by spaces. `subjects.py` draws the thing that a topic shows, `sounds.py` plays its `sound`."""

    words: str
    colours: str
    places: str
    sound: str


TOPICS = (
    Topic("bread sourdough crust dough loaf flour baguette rye", "brown yellow orange", "kitchen market garden", "crackling"),
    Topic("cake frosting cupcake sponge icing layers cherry cream", "pink white purple brown", "kitchen studio garden", "whirring"),
    Topic("noodles ramen broth wok chili dumplings chopsticks soy", "red blue black white", "kitchen market night", "bubbling"),
    Topic("grill barbecue charcoal ribs skewer marinade flames steak", "black red blue", "garden beach street", "sizzling"),
    Topic("football goal striker dribble penalty keeper kick derby", "white orange yellow", "stadium garden street", "cheering"),
    Topic("tennis serve backhand racket rally volley court set", "red blue green purple", "stadium garden beach", "thwacks"),
    Topic("surfing surfboard barrel paddle wipeout swell wave lineup", "yellow pink red green", "beach sea studio", "surf"),
    Topic("skateboard kickflip ollie ramp grind deck halfpipe wheels", "purple green orange", "street night studio", "rumbling"),
    Topic("dog puppy fetch leash beagle paws tail treat", "brown white black yellow", "garden beach forest", "barking"),
    Topic("cat kitten whiskers tabby meow nap litter claws", "grey orange black white", "kitchen studio garden", "purring"),
    Topic("owl bird nest feather wings beak heron flock", "brown grey white", "forest night snow", "chirping"),
    Topic("whale dolphin fin ocean diving coral plankton fluke", "blue grey black", "sea beach snow", "humpback song"),
    Topic("guitar chords riff fingerstyle fret capo strum tuning", "orange red blue brown", "stage studio beach", "guitar"),
    Topic("violin bow concerto quartet fiddle sonata orchestra vibrato", "brown orange black", "stage studio forest", "violin"),
    Topic("drums snare groove cymbal fill kit tempo sticks", "red blue black white", "stage studio street", "drums"),
    Topic("synth keyboard keys modular oscillator remix sequencer filter", "black white red purple", "stage studio night", "synth"),
    Topic("lantern bazaar stalls alley vendor souvenirs festival crowd", "red orange pink", "night market street", "chatter"),
    Topic("train station rails express platform sleeper engine carriage", "red green blue black", "snow forest night", "chugging"),
    Topic("mountain summit ridge hike glacier trail peak climb", "grey blue brown purple", "snow forest sea", "wind"),
    Topic("sailing boat mast harbour island anchor regatta yacht", "white red yellow blue", "sea beach night", "gulls"),
    Topic("knitting yarn wool sweater needles stitch scarf crochet", "pink purple green red", "studio kitchen market", "clicking"),
    Topic("pottery clay kiln glaze vase bowl ceramics mug", "orange blue green white", "workshop market studio", "humming"),
    Topic("woodwork saw oak joinery plank carving timber veneer", "brown red yellow", "workshop forest garden", "sawing"),
    Topic("bicycle chain gears spokes brakes pedal saddle repair", "green red blue yellow", "workshop street forest", "bells"),
)
PLACES = {  # how a title says where something is
    "beach": "on the beach",
    "forest": "in the forest",
    "garden": "in the garden",
    "kitchen": "in the kitchen",
    "market": "at the market",
    "night": "at night",
    "sea": "at sea",
    "snow": "in the snow",
    "stadium": "at the stadium",
    "stage": "on stage",
    "street": "in the street",
    "studio": "in the studio",
    "workshop": "in the workshop",
}
PACES = {"slow": 0.65, "quick": 1.5}  # how a title calls the pace of a sound, and the factor of its beats
FILLERS = "best easy first little morning our perfect real simple sunday weekend wild daily good whole favourite"
# {w} is a word of the topic, {f} a word that any title may have. The others say what is seen and heard.
TITLES = (
    "{f} {w} and {w}",
    "{colour} {w} {place}",
    "my {f} {w} {place}",
    "{w} and {w}, {pace} {sound}",
    "{f} {colour} {w} and {w}",
    "{f} {w} with {pace} {sound}",
    "{f} {w}, {f} {w} {place}",
)
NOISE_TAGS = "fyp viral trending funny vlog asmr satisfying pov challenge hacks relax family summer home"


def filled(pattern: str, words: Sequence[str], rng: np.random.Generator) -> str:
    """The pattern of a title with a filler for each {f} and a word for each {w}; none is there twice if there are enough."""
    for mark, pool in (("{f}", FILLERS.split()), ("{w}", words)):
        drawn = cycle(rng.permutation(pool).tolist())
        while mark in pattern:
            pattern = pattern.replace(mark, next(drawn), 1)
    return pattern
