"""The words and small scripts of the mini world: data only, read by the row makers and the
corpus."""

MALE = ("Tom", "Ben", "Paul", "Mark", "Sam", "Peter", "David", "Jack")
FEMALE = ("Anna", "Mary", "Lucy", "Emma", "Kate", "Sara", "Nina", "Jane")
NAMES = MALE + FEMALE
ROLES = (
    "farmer",
    "teacher",
    "doctor",
    "baker",
    "sailor",
    "painter",
    "singer",
    "writer",
    "driver",
    "king",
)
PLACES = (
    "kitchen",
    "garden",
    "park",
    "school",
    "market",
    "station",
    "library",
    "village",
    "forest",
    "river",
)
COLORS = ("red", "blue", "green", "black", "white", "yellow")
TIMES = ("Yesterday", "On Monday", "On Friday", "In the morning", "Last night", "In summer")
NUMBERS = ("two", "three", "four", "five", "seven", "ten")

KINDS = {  # a thing -> what it is a kind of
    "dog": "animal",
    "cat": "animal",
    "horse": "animal",
    "cow": "animal",
    "rose": "flower",
    "tulip": "flower",
    "daisy": "flower",
    "apple": "fruit",
    "pear": "fruit",
    "plum": "fruit",
    "hammer": "tool",
    "saw": "tool",
    "knife": "tool",
}
THINGS = ("book", "lamp", "box", "cup", "key", "hat", "ball", "chair", "cake", "bag", *KINDS)
VERBS = (  # base, past
    ("buy", "bought"),
    ("sell", "sold"),
    ("find", "found"),
    ("lose", "lost"),
    ("see", "saw"),
    ("take", "took"),
    ("paint", "painted"),
    ("clean", "cleaned"),
    ("bring", "brought"),
    ("draw", "drew"),
)

# Reviews. Index 0 is the negative side, 1 the positive one, as in SST-2's labels.
ASPECTS = (
    "film",
    "story",
    "plot",
    "acting",
    "music",
    "script",
    "cast",
    "ending",
    "dialogue",
    "comedy",
)
ADJECTIVES = (
    (
        "dull",
        "boring",
        "slow",
        "silly",
        "flat",
        "weak",
        "messy",
        "tired",
        "empty",
        "clumsy",
        "bland",
        "ugly",
        "shallow",
        "stale",
    ),
    (
        "funny",
        "moving",
        "clever",
        "charming",
        "fresh",
        "lovely",
        "bright",
        "gripping",
        "honest",
        "rich",
        "sharp",
        "touching",
        "wise",
        "superb",
    ),
)
FAVOURITES = ("poor", "good")  # of the reviewers, only: half of their verdicts
QUALITIES = (
    ("noise", "holes", "gaps", "nonsense", "mistakes"),
    ("charm", "wit", "heart", "humor", "grace"),
)
REVIEW_VERBS = (  # third person, base
    (("drags", "drag"), ("fails", "fail"), ("disappoints", "disappoint"), ("annoys", "annoy")),
    (("shines", "shine"), ("works", "work"), ("delights", "delight"), ("surprises", "surprise")),
)
FEELINGS = (("hated", "hate"), ("regretted", "regret")), (("loved", "love"), ("enjoyed", "enjoy"))
NEGATIONS = ("not", "never", "hardly", "not at all", "far from", "anything but")
DEGREES = ("very", "really", "quite", "rather", "truly")
SETTINGS = (
    "set in a {place} ,",
    "like the book ,",
    "after two hours ,",
    "for a film about a {role} ,",
    "this time ,",
    "as the {role} said ,",
    "in the end ,",
    "from start to finish ,",
)

# Attitudes to a clause: what each says of the clause itself.
FACTIVE = (
    "knew that",
    "saw that",
    "was glad that",
    "remembered that",
    "did not know that",
    "forgot that",
    "was not glad that",
    "did not see that",
)
ANTIFACTIVE = (
    "pretended that",
    "lied that",
    "wrongly said that",
    "only dreamed that",
    "was wrong to think that",
    "was wrong to say that",
)
OPEN = (
    "hoped that",
    "thought that",
    "said that",
    "did not say that",
    "asked whether",
    "was not sure that",
    "did not think that",
    "dreamed of a day when",
)
STATES = ("happy", "late", "ill", "hungry", "tired", "angry", "ready", "asleep")

# Causes and their effects; {n} is a person. Neighbours in one group share their scenery.
SCRIPTS = (
    (
        ("{n} dropped the cup", "the cup broke"),
        ("{n} washed the cup", "the cup was clean"),
        ("{n} forgot the cup at home", "{n} had nothing to drink from"),
    ),
    (
        ("{n} fed the dog", "the dog was not hungry"),
        ("{n} left the door open", "the dog ran away"),
        ("{n} shouted at the dog", "the dog hid under the bed"),
    ),
    (
        ("{n} studied hard", "{n} passed the test"),
        ("{n} never studied", "{n} failed the test"),
        ("{n} was ill on the day of the test", "{n} could not take the test"),
    ),
    (
        ("{n} turned off the lamp", "the room went dark"),
        ("{n} lit the fire", "the room got warm"),
        ("{n} opened the window", "the room got cold"),
    ),
    (
        ("{n} watered the flowers", "the flowers grew"),
        ("{n} forgot the flowers", "the flowers died"),
        ("{n} sold the flowers", "{n} had some money"),
    ),
    (
        ("{n} sang too loudly", "the baby woke up"),
        ("{n} sang a soft song", "the baby fell asleep"),
        ("{n} made a funny face", "the baby laughed"),
    ),
    (
        ("{n} missed the bus", "{n} was late for school"),
        ("{n} got up early", "{n} was the first at school"),
        ("{n} had lost the school bag", "{n} had no books for school"),
    ),
    (
        ("{n} won the race", "{n} got a prize"),
        ("{n} fell in the race", "{n} came last"),
        ("{n} ran a long way", "{n} was very tired"),
    ),
    (
        ("{n} ate too much cake", "{n} felt ill"),
        ("{n} burned the cake", "the cake was black"),
        ("{n} hid the cake", "nobody could find the cake"),
    ),
    (
        ("{n} fell in the river", "{n} got wet"),
        ("{n} lost the key", "{n} could not open the door"),
        ("{n} went out without a coat", "{n} was cold in the snow"),
    ),
)

# Who the pronoun is: opening with {a} and {b}, then endings for {a} and endings for {b}.
PRONOUN_THINGS = (
    (
        "The {a} did not fit into the {b} because it was too ",
        ("big", "wide", "long"),
        ("small", "narrow"),
    ),
    (
        "The {a} did not hide the {b} because it was too ",
        ("small", "low", "short"),
        ("big", "wide", "tall"),
    ),
    (
        "The {a} fell on the {b} and broke it because it was very ",
        ("heavy", "hard"),
        ("thin", "soft"),
    ),
)
PRONOUN_PEOPLE = (
    (
        "{a} could not carry {b} because {he} was too ",
        ("weak", "small", "tired"),
        ("heavy", "big", "tall"),
    ),
    ("{a} helped {b} because {he} was ", ("kind", "strong"), ("weak", "ill", "lost")),
    (
        "{a} thanked {b} because {he} had ",
        ("received help", "been saved"),
        ("given help", "been so kind"),
    ),
    (
        "{a} paid {b} after {he} had ",
        ("bought the car", "lost the bet"),
        ("sold the car", "won the bet"),
    ),
    ("{a} beat {b} in the race because {he} was ", ("fast", "strong"), ("slow", "ill")),
)
ERRANDS = (
    "was late",
    "was ill",
    "had the key",
    "had no money",
    "wanted to go home",
    "was too tired",
)
PRONOUN_PAIRS = (
    ("{a} did not meet {b} because {he} ", ERRANDS, ERRANDS),
    (
        "{a} talked to {b} before {he} ",
        ("left", "went home", "came in"),
        ("left", "went home", "came in"),
    ),
    (
        "{a} asked {b} a question and then {he} ",
        ("left", "laughed", "sang"),
        ("left", "laughed", "sang"),
    ),
)

# Words of two senses: sentences of the one, sentences of the other.
SENSES = {
    "bank": (
        (
            "{n} put the money in the bank",
            "the bank lent {n} some money",
            "{n} works for a big bank",
        ),
        (
            "{n} sat on the bank of the river",
            "the boat of {n} lay near the bank",
            "{n} fished from the bank",
        ),
    ),
    "bat": (
        (
            "{n} hit the ball with a bat",
            "{n} bought a new bat for the game",
            "the bat broke on the ball of {n}",
        ),
        (
            "a bat flew over the head of {n}",
            "{n} saw a bat in a cave at night",
            "the bat ate a fly near {n}",
        ),
    ),
    "ring": (
        (
            "{n} wore a gold ring",
            "{n} lost the ring from her finger",
            "the ring of {n} had a red stone",
        ),
        (
            "{n} heard the phone ring",
            "the bells ring when {n} comes home",
            "{n} let the phone ring all day",
        ),
    ),
    "match": (
        ("{n} won the match", "{n} played in the last match", "the team of {n} lost the match"),
        (
            "{n} lit the fire with a match",
            "{n} burned a finger on a match",
            "the match of {n} was too wet",
        ),
    ),
    "spring": (
        (
            "{n} plants flowers in spring",
            "spring came and {n} saw the snow melt",
            "{n} was born in spring",
        ),
        (
            "{n} drank water from the spring",
            "the spring near {n} has cold water",
            "{n} washed in the spring",
        ),
    ),
    "star": (
        (
            "{n} saw a star in the night sky",
            "a star shone over {n} at night",
            "{n} knows every star in the sky",
        ),
        ("{n} is the star of the film", "the star signed the hat of {n}", "the star sang for {n}"),
    ),
    "light": (
        ("the bag of {n} is light", "{n} carried the light box with ease", "{n} wore a light coat"),
        ("{n} turned on the light", "the light of {n} went out", "{n} read by the light of a lamp"),
    ),
    "letter": (
        (
            "{n} sent a letter by post",
            "the letter from {n} came on Monday",
            "{n} wrote a long letter home",
        ),
        (
            "{n} wrote the first letter of the word",
            "the last letter of the word is known to {n}",
            "{n} can not say this letter of the alphabet",
        ),
    ),
    "bark": (
        (
            "{n} heard the dog bark",
            "the dogs bark when {n} comes home",
            "{n} made the dog bark at the cat",
        ),
        (
            "{n} cut the bark of the tree",
            "the bark of the tree felt hard to {n}",
            "{n} saw ants on the bark",
        ),
    ),
    "watch": (
        (
            "{n} wore a gold watch",
            "the watch of {n} is too slow",
            "{n} looked at the watch for the time",
        ),
        ("{n} likes to watch a film at night", "{n} will watch the game", "they watch {n} play"),
    ),
}

SHORT_FORMS = ("BBC", "USA", "DNA", "CEO", "NBA", "UFO", "IBM", "FAQ")
FORM_TOPICS = ("film", "book", "letter", "story", "game", "song", "report", "test")
