"""Names and things that fill the templates; every list is cut into disjoint parts by split."""

from __future__ import annotations

from generated.core import listed, partition

NAMES = partition(
    listed(
        "Anna Boris Clara David Elena Felix Grace Hassan Irene Jonas Karin Liam Maria Nadia "
        "Oscar Paula Quentin Rosa Samuel Tara Ulrich Vera Walter Xenia Yusuf Zoe Aisha Bruno "
        "Cecilia Diego Esther Farid Gloria Henry Ingrid Jamal Keiko Laura Mateo Nina Olga "
        "Pedro Ravi Sofia Tomas Uma Viktor Wendy Yara Zack"
    )
)

THINGS = partition(
    listed(
        "apples pencils marbles stickers cookies buttons candles postcards lemons stamps "
        "balloons ribbons magnets peaches notebooks coins shells crayons muffins badges "
        "tomatoes envelopes beads onions plums erasers cups spoons carrots tickets bricks "
        "tiles melons brushes keys lanterns pies mugs scarves hats"
    )
)

WARES = partition(
    listed(
        "coat|lamp|tent|chair|kettle|guitar|jacket|scooter|camera|carpet|mirror|"
        "printer|desk|drill|blender|helmet|suitcase|keyboard|clock|sofa|radio|"
        "toaster|ladder|telescope|backpack",
        "|",
    )
)

PLACES = partition(
    listed(
        "planetarium|theatre|school hall|museum|concert hall|cinema|town hall|"
        "stadium stand|lecture room|chapel|circus tent|opera house|courtroom|"
        "assembly room|ballroom",
        "|",
    )
)

NOUNS_FOR_CODE = partition(
    listed(
        "scores prices items levels marks points weights orders rates steps sizes blocks "
        "cells grades parts units hours goals votes seats lines tokens stock rooms loads"
    )
)

LIST_WORDS = partition(
    listed(
        "otter walnut harbor pebble violin ginger meadow canyon copper falcon basket thunder "
        "mango saddle orchid beacon hammer island jungle kitten ladder magpie napkin oyster "
        "parrot quartz rocket salmon tulip umbrella valley window yogurt zebra anchor bottle "
        "cactus dragon engine forest garlic hornet insect jasper kettle lizard meteor needle "
        "onion pillow rabbit shadow turtle velvet walrus apricot bonnet cherry dolphin elbow "
        "feather gazelle hazel ivory jigsaw lantern muslin nectar olive pepper raven sparrow "
        "timber urchin viola willow acorn bison clover daisy ember ferret goblet heron iris "
        "juniper koala lagoon maple nutmeg opal panther quail raisin sierra topaz vessel "
        "wombat almond badger cobalt domino elm fig"
    )
)

DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
