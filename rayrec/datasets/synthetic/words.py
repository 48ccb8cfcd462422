"""The names of the synthetic world's classes, and the words of its titles and tags.

Topics 4i..4i+3 share a primary class, 2i and 2i+1 a secondary class. A topic's first five words are also its tags.
"""

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
TOPIC_WORDS = (
    "bread sourdough crust dough loaf flour oven baguette",
    "cake frosting cupcake sponge icing layers oven glaze",
    "noodles ramen broth wok chili dumplings steam soy",
    "grill barbecue charcoal ribs smoke skewer marinade sear",
    "football goal striker dribble penalty keeper match pitch",
    "tennis serve backhand racket rally volley match court",
    "surfing wave swell reef barrel paddle wipeout tide",
    "skateboard kickflip ollie ramp grind deck halfpipe street",
    "dog puppy fetch leash beagle bark walk treat",
    "cat kitten purr whiskers tabby meow nap treat",
    "birds nest owl feather heron flock wings song",
    "reef shark whale coral dolphin turtle tide diving",
    "guitar chords riff fingerstyle strum fret solo song",
    "violin bow concerto quartet fiddle sonata strings solo",
    "drums snare groove cymbal fill kit tempo loop",
    "synth bass modular oscillator remix beat loop filter",
    "market lanterns street stalls alley night snacks crowd",
    "train station rails express platform sleeper tunnel night",
    "mountain summit ridge hike glacier trail snow camp",
    "beach sand lagoon palm shore island sunset swell",
    "knitting yarn wool sweater needles stitch scarf pattern",
    "pottery clay kiln glaze wheel bowl mug pattern",
    "woodwork chisel oak joinery plane carving bench grain",
    "bicycle chain gears wheel spokes brakes repair bench",
)
FILLERS = (
    "best easy first little morning new old our perfect quick quiet real simple slow sunday tiny weekend wild daily long good whole"
)
# {w} is a word of the topic (sometimes of its sibling), {f} a word that any title may have.
TITLES = (
    "{f} {w} {w}",
    "my {f} {w} and {w}",
    "how to {w} {f} {w}",
    "{w} {w} for a {f} day",
    "{f} {w}, {f} {w} and {w}",
    "{f} {f} {w}",
)
NOISE_TAGS = "fyp viral trending funny vlog asmr satisfying pov challenge hacks relax family summer home"
