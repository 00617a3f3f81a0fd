"""Word lists of the rules planner: closed classes, numbers, relations, and what kind of thing a noun stands for.

Written for this planner. ``SURROUNDINGS`` follows the "stuff" side of COCO-Stuff (Caesar, Uijlings and Ferrari
2018): what has no shape of its own. Words are lower case and in the singular unless a list says otherwise.
"""

from __future__ import annotations


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


def _phrases(text: str) -> frozenset[str]:
    return frozenset(" ".join(text.split()).split(", "))


def _sides(side: str) -> frozenset[str]:
    """ "to the left of", "on the left side of", "left of" ..."""
    before = ("to the ", "on the ", "at the ", "in the ", "to ", "on ", "at ", "the ", "")
    after = ("of", "side of", "hand side of", "from")
    return frozenset(f"{b}{side} {a}" for b in before for a in after) | {
        f"{b}{side}-hand side of" for b in before
    }


# ------------------------------------------------------------------------------------------- closed classes

DETERMINERS = _words(
    """
    a an the this that these those another each every either neither any its his her their my our your
    """
)
ARTICLES = _words("a an the")
POSSESSIVES = _words("its his her their my our your")
OWNERS = {"its": "it", "his": "he", "her": "she", "their": "they"}
PRONOUNS = _words(
    """
    it they them him he she we us me i you himself herself itself themselves someone something somebody
    everyone everything nothing anyone anything others
    """
)
SUBORDINATORS = _words("""
    which that who whom whose where while as when because if although though so since
    """)
WHICH = _words("which that who")
AUXILIARIES = _words(
    """
    is are was were be been being am has have had do does did can could will would shall should may might
    must isn't aren't there's it's
    """
)
PREPOSITIONS = _words(
    """
    in on at by with without within for from to into onto over under above below between among through
    across against along around behind beside besides beneath near off out outside inside past up upon down
    toward towards during before after until amid amidst amongst beyond despite like about underneath atop
    alongside via per of opposite away than
    """
)
ADVERBS = _words(
    """
    very too so also just not only even then now here there together again apart almost nearly quite rather
    really directly right outdoors indoors outside nearby immediately slightly partially side-by-side still
    ever never always often once away
    """
)
NOT_ADVERBS = _words(
    """
    butterfly dragonfly firefly jelly lily belly family curly lovely lively friendly cuddly bubbly fly
    woolly wooly silly ugly holy chilly hilly wrinkly early daily lonely elderly trolley italy
    trolly dolly bully ally rally gully
    """
)

# --------------------------------------------------------------------------------------------------- numbers

_ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen"
)
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
NUMBERS = {word: n for n, word in enumerate(_ONES.split())}
NUMBERS |= {word: 10 * n for n, word in enumerate(_TENS.split(), start=2)}
NUMBERS |= {
    f"{ten}-{one}": NUMBERS[ten] + NUMBERS[one] for ten in _TENS.split() for one in _ONES.split()[1:10]
}
NUMBERS |= {"no": 0, "hundred": 100, "both": 2, "single": 1, "dozen": 12}
#: Words for a number that is not said, and how many are drawn.
VAGUE = {"few": 3, "some": 3, "several": 4, "various": 4, "multiple": 4, "many": 6, "numerous": 6, "all": 3}
BARE_PLURAL = 2
#: "a pair of dogs": exact numbers.
EXACT_GROUPS = {"couple": 2, "pair": 2, "duo": 2, "trio": 3, "quartet": 4, "dozen": 12}
#: "a herd of cows": numbers that are not said.
GROUPS = {
    "group": 4, "set": 3, "row": 4, "line": 4, "herd": 5, "flock": 5, "crowd": 6, "team": 4, "number": 4,
    "lot": 6, "variety": 4, "collection": 4, "assortment": 4, "bunch": 4, "series": 4, "school": 5,
    "pack": 4, "array": 4, "handful": 4, "gang": 4, "family": 4, "cluster": 4, "litter": 4, "fleet": 4,
    "batch": 4, "display": 4, "selection": 4, "mix": 4, "plenty": 6, "mob": 5, "swarm": 6, "ton": 6, "load": 6,
}  # fmt: skip
#: "a pile of books", "a slice of pizza": one box, whatever is in it.
PORTIONS = _words(
    """
    pile stack heap bundle mound slice piece bit half loaf chunk sheet strand scoop spoonful bouquet bushel
    roll bale statue sculpture figurine
    """
)
NAMED_BY_ITSELF = _words("statue sculpture figurine bouquet")  # "a statue of a bird" is a statue
#: "a bunch of bananas" is one thing, "a bunch of people" are several.
BUNCHED = _words("""
    banana grape flower key carrot rose balloon herb radish tulip broccoli asparagus
    """)
TRANSPARENT = _words("kind type sort breed species style version example")
CONTAINERS = _words(
    """
    bowl plate cup glass mug vase basket bottle box tray jar pot bag can pitcher bucket pan dish crate
    carton barrel case jug platter pint sack wineglass teacup tub bin shelf
    """
)
#: Plural in form, one thing.
PLURAL_FORMS = _words(
    """
    scissors pants jeans shorts trousers glasses sunglasses goggles binoculars headphones tongs pliers
    tweezers pajamas leggings overalls tights eyeglasses clothes stairs skis
    """
)
UNCHANGED = _words(
    """
    sheep deer fish goldfish shrimp salmon moose bison aircraft series species trout squid swine cattle
    """
)
#: Singular for all their s.
NO_PLURALS = _words(
    """
    tennis lens canvas bus gas christmas iris chess news rhinoceros thermos chaos cosmos paris james texas
    mars atlas pancreas
    """
)
#: Their plurals are no nouns on -y: "cookies".
ON_IE = _words(
    """
    tie pie cookie movie zombie selfie hoodie smoothie brownie genie cutie birdie collie magpie veggie
    """
)

# ------------------------------------------------------------------------------------------------ kinds of nouns

#: The picture itself and places in it.
FRAMES = _words(
    """
    picture photo photograph image scene view shot close-up closeup background foreground snapshot frame
    illustration drawing rendering render sketch cartoon portrait artwork canvas top side front back left
    right middle center centre corner bottom edge end distance way direction rear left-hand right-hand style
    panorama depiction close selfie screenshot watercolor collage inside outside sight wallpaper
    """
)
PICTURES = _words("painting poster print mural")  # the picture itself where "of" follows at its beginning
SURROUNDINGS = _words(
    """
    sky cloud clouds sun sunlight sunset sunrise horizon air fog mist smoke rain snow ice weather light
    darkness shade shadow reflection night day daylight space grass lawn field meadow pasture ground dirt
    mud sand gravel soil earth floor flooring land landscape terrain hill hillside mountain mountainside
    valley cliff desert savanna savannah plain plains slope forest wood woods jungle bush bushes shrub
    shrubs brush foliage greenery leaf leaves vegetation underbrush hay straw water sea ocean lake river
    pond stream wave waves surf beach shore shoreline coast bay pool puddle harbor marina road street
    highway sidewalk pavement asphalt concrete path pathway trail driveway lane intersection crosswalk
    runway tarmac track tracks railroad railway platform dock pier parking lot alley curb bridge wall
    ceiling tile tiles brick bricks carpet carpeting stone roof rooftop room kitchen bathroom bedroom
    restroom hallway hall office house home building restaurant store shop market city town village park
    yard backyard garden farm barn zoo enclosure corral stable station airport museum studio classroom
    school church stadium court arena stage area place location spot country countryside world environment
    setting surface surroundings neighborhood square plaza interior exterior garage porch patio balcony
    furniture furnishing furnishings campus island boardwalk walkway canal tunnel lobby auditorium closet
    stall range deck skyline cityscape wilderness habitat outdoors indoors outside inside downtown roadside
    wildlife nature food traffic audience scenery shoreline race game match tennis baseball soccer football
    basketball party event wedding meal dinner lunch breakfast competition contest parade ceremony base
    plate
    """
) - _words(
    """
    plate football cloud clouds sun mountain house building bridge bush bushes shrub shrubs barn church
    brick bricks stone leaf leaves
    """
)
#: Furnishings and plants of COCO-Stuff: things when they are what is told of, surroundings when others are on them.
FURNISHINGS = _words(
    """
    tree branch limb log trunk fence gate window windowsill sill ledge door doorway wall-clock curtain blind
    rug mat towel cloth tablecloth blanket sheet pillow cushion quilt comforter bedspread mirror counter
    countertop cabinet cupboard shelf rock boulder pole post railing stairs step tent net cage rail pebble
    fabric paper cardboard bedding linens linen covers headboard napkin cloud sun mountain house building
    bridge bush shrub barn church brick stone leaf
    """
)
#: Belongs to a thing: a box of its own only where nothing else is named.
PARTS = _words(
    """
    head face eye eyes ear nose mouth tongue tooth teeth neck hair fur skin body arm hand finger leg foot
    feet paw tail back belly chest shoulder lap wing beak horn tusk trunk mane hoof claw whisker spot stripe
    feather wool beard mustache moustache chin cheek hood bumper wheel tire windshield headlight seat lid
    handle button screen engine cockpit armrest rim trim leg frosting icing topping toppings sprinkles crust
    filling sauce syrup label sticker logo letter letters word words writing number numbers text pattern
    design color colors colour band collar leash saddle harness bridle peel stem petal blade spout shell tip
    surface corner edge hind coat lace laces sleeve pocket strap string rope
    """
)
PARTS_OF_OTHERS = PARTS | _words("""
    top side front bottom rear inside middle center centre roof edge end half
    """)
#: Parts of the body that hold: "a ball in its mouth", "under his arm", "on her lap".
HOLDING_PARTS = _words("hand arm finger lap mouth tooth beak trunk paw claw talon")
#: The part above or below which a thing is above or below the whole: "an umbrella over her head".
OUTER_PARTS = {"above": _words("head"), "below": _words("foot paw hoof belly")}
COVERS_OF_THINGS = _words("cover roof hood lid bed deck flatbed rim handle surface top side front back")
CARRYING_PARTS = _words("head back shoulder nose horn")  #: "a bird on his shoulder"
FLOWERS = _words("""
    flower rose tulip sunflower daisy lily bloom blossom carnation orchid daffodil
    """)
SURFACES = _words("plate tray table desk bed couch sofa counter shelf bench")
COVERS = _words(
    """
    pillow blanket sheet quilt comforter cover bedspread bedding covers linens
    """
)  # "under a blanket"
PARTS_OF_COMPOUNDS = _words(
    """
    mirror cushion window door roof slice piece half track floret stalk wedge frame
    """
)  # "a couch cushion"
ABSTRACT = _words(
    """
    time nap look bite air ride walk run jump trick stunt motion action speech talk conversation attention
    pose position fun love joy happiness sadness anger fear fun peace music sound noise idea thought dream
    life death work job task day week month year morning evening afternoon summer winter spring autumn fall
    moment while turn rest sleep play help care use need reason purpose kind lot bit rain heat cold wind
    cloudy shape size height length weight depth width age amount level detail details lighting contrast
    quality resolution focus style art mood atmosphere texture theme expression smile grin frown glance gaze
    stare angle distance row order line formation pair couple number group part piece thing things
    stuff item items object objects something mid-air midair middle center business practice training
    exercise wait swing catch throw hit kick pitch serve break meal bath shower drive trip travel tour
    journey vacation holiday celebration birthday christmas story news information message question answer
    sense feeling mystery magic
    """
) | _words(
    """
    minute hour second inch mile percent degree dollar cent pound ounce accent fixture marking tone hue
    variety matter expanse series section layer tier portion birthday greeting storm wheelie flight role
    name data emblem
    """
)
#: "a two piece suit": no number of suits.
COUNTED_PARTS = _words(
    "piece story storey door seat seater tier level way person lane wheel layer engine handle"
)
BALL_GAMES = _words("baseball basketball football volleyball softball")
#: "on display", "in flight": no thing where no article or number stands before.
IDIOMS = _words("display sale fire foot duty board shore tow camera land line parade stage guard")
#: Worn on the body. Where: share of the wearer's box from its top, and of its width.
WORN = {
    **dict.fromkeys(
        _words("""
    hat cap helmet crown wig beanie turban headband headphones tophat sombrero veil tiara hood beret
    """),
        "head",
    ),
    **dict.fromkeys(_words("glasses sunglasses goggles eyeglasses mask eyepatch blindfold"), "eyes"),
    **dict.fromkeys(_words("tie necktie bowtie scarf necklace collar bandana"), "neck"),
    **dict.fromkeys(
        _words("""
    shirt t-shirt tshirt jacket coat vest sweater hoodie dress suit tuxedo uniform robe blouse apron costume
    gown kimono wetsuit snowsuit slicker outfit clothes clothing attire gear jersey poncho cloak cape pajamas overalls
    backpack saree sari tank-top top jumpsuit raincoat sweatshirt armor
    """),
        "body",
    ),
    **dict.fromkeys(_words("pants jeans shorts trousers skirt leggings tights bikini trunks"), "legs"),
    **dict.fromkeys(_words("shoe boot sock sneaker sandal slipper skate heel"), "feet"),
    **dict.fromkeys(_words("glove mitten watch bracelet ring wristwatch"), "hands"),
}
#: Covers its wearer: "a man in a suit" is one box.
CLOTHING = frozenset(
    name for name, where in WORN.items() if where in ("body", "legs", "feet") and name != "backpack"
)
PEOPLE = _words(
    """
    person man woman boy girl child kid baby toddler adult lady gentleman guy teen teenager people human
    infant male female player skier surfer snowboarder skateboarder skater rider cyclist biker pedestrian
    worker chef cook waiter waitress doctor nurse teacher student soldier officer policeman policewoman
    fireman firefighter farmer fisherman batter catcher pitcher umpire king queen prince princess knight
    wizard witch pirate astronaut clown dancer singer musician artist painter bride groom mother father mom
    dad son daughter brother sister friend family couple boyfriend girlfriend husband wife tourist passenger
    driver pilot sailor scientist businessman businesswoman cowboy robot
    """
) - {"pitcher", "family", "couple"}
#: Whoever can hold, wear and ride.
ANIMALS = _words(
    """
    cat dog horse cow sheep elephant bear zebra giraffe bird duck goose swan chicken rooster hen turkey
    pigeon seagull gull parrot owl eagle hawk penguin flamingo ostrich peacock crow raven sparrow kitten
    puppy rabbit bunny hare mouse rat hamster squirrel chipmunk raccoon fox wolf lion tiger leopard cheetah
    panther jaguar monkey gorilla chimpanzee ape panda koala kangaroo deer elk moose antelope goat lamb pig
    piglet boar donkey mule camel llama alpaca buffalo bison bull calf ox pony foal hippo hippopotamus rhino
    rhinoceros crocodile alligator turtle tortoise lizard snake frog toad fish shark whale dolphin seal
    otter octopus squid crab lobster shrimp jellyfish goldfish salmon bee butterfly spider ant beetle
    ladybug cockroach caterpillar snail worm dragonfly bat badger beaver hedgehog porcupine skunk wombat
    sloth dinosaur dragon unicorn corgi poodle labrador
    """
)
#: Lifeless figures that hold and wear things all the same.
FIGURES = _phrases(
    "teddy bear, stuffed animal, doll, statue, snowman, scarecrow, figurine, puppet, mannequin, toy"
)
#: Other things the reader should know as nouns, so that "a purple bear" and "a watch" are not read as verbs.
THINGS = _words(
    """
    car bus truck train bicycle bike motorcycle motorbike scooter moped airplane plane jet helicopter boat
    ship sailboat canoe kayak van taxi cab tractor trailer wagon carriage cart stroller rocket spaceship suv
    trolley tram ferry yacht bench chair couch sofa bed table stool armchair recliner dresser nightstand
    wardrobe bookshelf bookcase crib ottoman lamp chandelier fireplace refrigerator fridge oven stove
    microwave toaster dishwasher sink toilet bathtub shower urinal tv television laptop computer keyboard
    monitor printer phone cellphone telephone smartphone camera remote clock watch radio speaker guitar
    piano violin drum trumpet saxophone flute microphone fan heater bottle cup mug glass wineglass bowl
    plate fork knife spoon pan pot kettle pitcher teapot vase basket bucket tray jar can box bag backpack
    handbag purse suitcase luggage briefcase umbrella wallet book magazine newspaper notebook pen pencil
    scissors ruler eraser key lock candle flag sign ball kite frisbee skateboard surfboard snowboard ski
    skis racket racquet bat glove helmet toy doll balloon block brush toothbrush comb towel soap candle
    painting poster statue sculpture fountain hydrant meter ladder hammer wrench saw drill shovel broom mop
    hose rope chain anchor apple banana orange pear peach grape strawberry lemon lime cherry pineapple
    watermelon melon mango avocado tomato carrot broccoli cauliflower cabbage lettuce onion pepper potato
    corn mushroom pumpkin cucumber cake pie cookie donut doughnut muffin cupcake bagel bread sandwich
    hamburger burger pizza hotdog taco burrito sushi pasta egg cheese salad fries croissant pancake waffle
    steak bacon sausage coffee beer wine tie hat cap shirt jacket shoe boot glasses sunglasses crown ring
    necklace mask scarf flower rose tulip sunflower daisy plant cactus tree house building castle tower
    windmill lighthouse igloo tent bridge mountain tower star moon heart circle square triangle rectangle
    cube sphere pyramid cone cylinder arrow desk window door mirror curtain pillow blanket rug cabinet shelf
    drawer trophy medal coin gun sword shield crystal pearl gem jewel robot paddle oar snowman scarecrow
    swing slide trampoline seesaw pitch drink tabby calico siamese sink faucet drier dryer hairdryer
    hairdrier toaster blender mixer ornament monument instrument ambulance appliance garment document
    """
)
#: Compounds that are not what their last word says, or that name a thing together.
COMPOUNDS = _phrases(
    """
    hot dog, teddy bear, traffic light, dining table, potted plant, stop sign, fire hydrant, parking meter,
    cell phone, mobile phone, wine glass, tennis racket, tennis racquet, tennis ball, baseball bat, baseball
    glove, sports ball, soccer ball, hair drier, hair dryer, polar bear, ice cream, street sign, street
    light, remote control, coffee table, fire truck, fire engine, pickup truck, trash can, garbage can,
    washing machine, sewing machine, coffee maker, vending machine, rocking chair, rocking horse, stuffed
    animal, soda can, bow tie, french fries, bell pepper, swim suit, tea pot, tea cup, night stand, book
    shelf, bird house, snow board, skate board, surf board, tooth brush, lady bug, gold fish, star fish,
    jelly fish, hand bag, back pack, suit case, dog house, water bottle, tissue box, coat rack, alarm clock,
    ping pong ball, golf ball, basket ball, christmas tree, palm tree, wet suit, tank top, bath tub,
    shopping cart, golf cart, hot air balloon, snow globe, light bulb, pepper shaker, salt shaker, cutting
    board, computer mouse, ironing board, cowboy hat, top hat, sports car, school bus, stick figure, gas
    pump, gas station, phone booth, tennis player, baseball player, soccer player, police officer, guinea
    pig, sea lion, sea horse, killer whale, grizzly bear, brown bear, black bear, panda bear, koala bear,
    gummy bear, peanut butter, living room, toy car, paper towel, toilet paper, flat screen, clock tower,
    neck tie, snow skis, water skis, country skis, bird cage, book case, cup cake, sun flower, polka dot,
    double decker, picture frame, photo frame, window frame, door frame, signal light, lamp post, light post,
    light pole, watering can, beer can, paint can, spray can, traffic signal, street lamp, stop light
    """
)
#: Compounds whose name is shorter: what people call the thing by itself.
SHORT_NAMES = {
    "laptop computer": "laptop", "tablet computer": "tablet", "computer laptop": "laptop",
    "television set": "television", "tv set": "tv", "tv screen": "tv", "computer mouse": "mouse",
    "remote control": "remote", "toy car": "car", "television screen": "television",
    "microwave oven": "microwave", "toilet bowl": "toilet", "toilet seat": "toilet", "brown bear": "bear",
    "black bear": "bear",
}  # fmt: skip
#: Nouns in -ing and -ed.
NOT_PARTICIPLES = _words(
    """
    painting building railing clothing ceiling drawing ring earring king wing string spring swing bed shed
    seed weed sled reed thing something evening morning lightning icing pudding dressing stocking wedding
    bedding herring duckling pudding frosting topping filling crossing hotdog seeing viking bearing sibling
    gosling red
    """
)
ADJECTIVES = _words(
    """
    red orange yellow green blue purple pink brown black white gray grey gold golden silver beige tan
    turquoise violet maroon navy teal cyan magenta crimson big small large tall short long little tiny huge
    giant enormous wide narrow thick thin mini miniature wooden metal metallic fluffy plastic rubber leather
    glass ceramic stone brick paper cardboard stuffed round square rectangular oval circular old new young
    open closed empty full striped spotted plaid checkered colorful dark light bright clean dirty wet dry
    hot cold soft hard fat cute adult baby toy fake real different same other own first second third last
    main public modern vintage antique rusty shiny flat furry fresh ripe sliced cooked raw half-eaten top
    bottom front back left right upper lower double single multi-colored multicolored leafy grassy snowy
    sandy rocky wild tame adorable beautiful pretty ornate decorative electric electronic mechanical male
    female dead alive fake cloudy busy vegan vegetarian organic ecru cream burgundy khaki
    """
)
#: Adjectives that are nouns as well.
COVERED = _words(
    """
    covered filled shaped topped colored coloured painted sized lined framed themed striped trimmed
    patterned tiled walled haired mounted handled
    """
)
NOUN_TOO = _words(
    """
    orange square oval glass gold silver baby toy adult stone brick paper light giant miniature top bottom
    front back male female metal cardboard
    """
)
COLOURS = _words(
    """
    red blue green yellow purple pink brown black white gray grey beige tan turquoise violet maroon navy
    teal cyan magenta
    """
)
COLOURS_TOO = _words("orange gold silver")  #: colours that are nouns as well
POSTURES = _words("sit lie lay stand rest sleep perch lean relax lounge")
LARGE = _words("large big huge giant enormous gigantic massive oversized tall great")
SMALL = _words("small little tiny mini miniature baby short")

VERBS = _words(
    """
    sit lie lay stand rest sleep walk run ride fly hold eat play look pose wait perch graze jump drive float
    hang wear carry watch drink catch throw hit swing swim surf ski skate kick chase pull push reach lean
    hover swoop land park travel roll move pass cross face show display feature contain surround cover fill
    hug kiss lick bite chew smell sniff stare gaze read write type talk speak smile laugh cry sing dance
    cook bake cut slice serve pour climb crawl hide peek peer use take make give get go come put set place
    lounge nap snuggle cuddle curl relax wander roam gather huddle feed pet touch grab brush wash clean
    bathe dry point mount attach lead follow herd share enjoy top try prepare work fix repair build paint
    draw shine glow spread stretch bend lift balance spin circle dock sail row paddle glide soar bloom grow
    sprout hunt fight attack guard protect greet outnumber stick sticks seem appear remain stay keep have
    race skateboard snowboard kneel crouch squat wade bark splash stroll trot gallop nibble munch doze
    approach trail leap tow press contrast tower adorn proceed signal rise fall attend observe examine
    inspect nestle drag flash shop dress decorate line connect tie lock turn leave enter board
    """
)
IRREGULAR_VERBS = _words(
    """
    sat lay lain laid stood slept ran rode flew held ate hung wore carried drank caught threw hit swam took
    made gave got went came put set cut grew spread bent kept had shown drawn eaten ridden worn driven flown
    seen lit lying tied taken stopped written
    """
)
#: Verbs that bring one into something: "walking into a room".
MOVES = _words(
    """
    walk run jump dive climb step get go come drive fly fall crawl head enter swim move squeeze sneak peek put place
    fit pull plug
    """
)
MOVED = _words("ran swam got went came drove flew fell crept put")
#: "made of clay", "carved from wood": what follows has no box.
MADE = _words("made built composed carved constructed crafted formed sculpted woven")
#: Where one is said to be "by" something; after other participles "by" names who does it.
STAYING = _words(
    "parked seated located placed situated left stopped stationed positioned docked nestled moored tied"
)
#: "a cup held by a man"
PASSIVES = {"held": "hold", "carried": "hold", "clutched": "hold", "worn": "wear", "ridden": "ride"}
HOLD = _words(
    """
    hold holds holding carry carries carrying clutch clutches clutching grasp grasps grasping wield wields
    wielding grab grabs grabbing hug hugs hugging swinging raising
    """
)
WEAR = _words("wear wears wearing wore")
RIDE = _words("ride rides riding rode mount mounts mounting")
EAT = _words(
    """
    eat eats eating bite bites biting drink drinks drinking lick licks licking chew chews chewing smell
    smells smelling sniff sniffs sniffing nibble nibbles nibbling munching
    """
)

# ------------------------------------------------------------------------------------------------- relations

_RELATIONS = {
    "left": _sides("left"),
    "right": _sides("right"),
    "on": _phrases("""
    on top of, on the top of, ontop of, on to of, atop, atop of, on, upon, onto, at the top of, sat on, up
    on, on the back of, resting on, over top of
    """),
    "above": _phrases("above, over, up above, higher than, directly above, flying over"),
    "below": _phrases("""
    below, under, underneath, beneath, on the bottom of, at the bottom of, on bottom of, lower than, down
    below, underneath of, under neath, to the bottom of, in the shade of, under the shade of
    """),
    "beside": _phrases("""
    next to, beside, besides, near, near to, nearby, close to, by, alongside, on the side of, on side of, at
    the side of, to the side of, along side, along side of, adjacent to, right next to, by the side of, side
    by side with, against, facing, close by, leaning against, on either side of, on both sides of, on one
    side of, on the other side of, across from, opposite
    """),
    "apart": _phrases("far from, far away from, away from"),
    "between": _phrases("""
    between, in between, in the middle of, among, amongst, sandwiched between, surrounded by, amid
    """),
    "front": _phrases("""
    in front of, in the front of, at the front of, covering, hiding, blocking
    """),
    "behind": _phrases("""
    behind, in back of, at the back of, in the back of, hidden by, hidden behind, covered by, blocked by
    """),
    "in": _phrases("""
    in, inside, inside of, within, into, in the inside of, out of, through
    """),
    "with": _phrases("""
    with, along with, together with, accompanied by, containing, featuring, full of, filled with, topped
    with, covered in, covered with, having
    """),
    "at": _phrases("""
    at, towards, toward, to, for, around, from, along, across, past, about, like, off, down, up, beyond,
    outside, outside of, off of, after, before, during, via, than, as
    """),
    "without": _phrases("without, with no"),
    "larger": _phrases("larger than, bigger than, taller than, greater than"),
    "smaller": _phrases("smaller than, shorter than, tinier than"),
}
RELATIONS = {text: kind for kind, texts in _RELATIONS.items() for text in sorted(texts)}
_SPOTS: dict[str, tuple[int | None, int | None]] = {
    **dict.fromkeys(_phrases("left, far left, left side, left-hand side, left hand side"), (-1, None)),
    **dict.fromkeys(_phrases("right, far right, right side, right-hand side, right hand side"), (1, None)),
    **dict.fromkeys(_phrases("top, background, distance"), (None, -1)),
    **dict.fromkeys(_phrases("bottom, foreground"), (None, 1)),
    **dict.fromkeys(_phrases("middle, center, centre"), (0, 0)),
    **dict.fromkeys(_phrases("top left, upper left, top-left"), (-1, -1)),
    **dict.fromkeys(_phrases("top right, upper right, top-right"), (1, -1)),
    **dict.fromkeys(_phrases("bottom left, lower left, bottom-left"), (-1, 1)),
    **dict.fromkeys(_phrases("bottom right, lower right, bottom-right"), (1, 1)),
}
#: Places of the picture: (x, y), each -1, 0, 1, or None where the words leave it open.
PLACES = {
    f"{before} the {spot}{corner}": place
    for spot, place in _SPOTS.items()
    for before in ("on", "to", "at", "in")
    for corner in (("", " corner") if None not in place else ("",))
}
BACKGROUND, FOREGROUND = ("in the background", "in the distance"), ("in the foreground",)
NOUNS = (
    THINGS | PEOPLE | ANIMALS | SURROUNDINGS | FURNISHINGS | PARTS | FRAMES | PICTURES | PORTIONS | CONTAINERS
    | frozenset((*GROUPS, *EXACT_GROUPS, *WORN, *(compound.rpartition(" ")[2] for compound in COMPOUNDS)))
    | BUNCHED | ABSTRACT | PLURAL_FORMS
)  # fmt: skip
