/* sql_schemas.c - tables of everyday domains, a line each: table, row, then columns. A column is a pool of words or a range
 * of numbers. Names are plain words that SQL does not reserve, so statements need no quotes around them. */
#include "tune/sql_schemas.h"

#include <stdlib.h>
#include <string.h>

static const char *const pools[] = {
    "person: Anna Ben Clara David Emma Felix Grace Henry Ida Jack Kate Leo Maria Noah Olga Paul Rosa Sam Tina Victor Wendy Xavier Yara Zoe",
    "surname: Adams Baker Clark Dixon Evans Foster Green Harris Irwin Jones Keller Lewis Moore Nolan Owens Parker Quinn Reed Smith Turner",
    "country: France Spain Italy Germany Poland Greece Norway Sweden Japan China India Brazil Chile Kenya Egypt Canada Mexico Peru",
    "city: Paris Rome Berlin Madrid London Vienna Prague Oslo Dublin Lisbon Athens Tokyo Lima Cairo Boston Chicago Denver Austin",
    "color: red blue green black white yellow orange purple brown grey pink silver",
    "music: rock jazz pop folk blues opera metal soul techno reggae",
    "film: comedy drama horror action romance western thriller fantasy animation musical",
    "animal: dog cat horse cow goat sheep rabbit fox bear wolf lion tiger zebra camel",
    "fruit: apple pear plum cherry lemon mango peach grape melon banana kiwi fig",
    "vegetable: carrot potato onion tomato pepper leek bean pea cabbage spinach pumpkin garlic",
    "sport: football tennis hockey golf rugby boxing cycling rowing sailing swimming chess",
    "team: Lions Eagles Sharks Bears Wolves Tigers Hawks Bulls Falcons Giants Rockets Kings",
    "language: English French German Spanish Italian Polish Greek Dutch Danish Arabic Hindi Korean",
    "job: nurse teacher driver cook pilot lawyer painter farmer doctor clerk baker judge engineer",
    "department: sales finance legal research support marketing design security logistics training",
    "company: Acme Nordic Vertex Solaris Bluebird Orion Pioneer Summit Harbor Evergreen Atlas Zenith",
    "brand: Volta Kestrel Mira Tanto Bravo Lumen Onyx Fabro Delta Cosmo Rondo Pixel",
    "month: January February March April May June July August September October November December",
    "weekday: Monday Tuesday Wednesday Thursday Friday Saturday Sunday",
    "season: spring summer autumn winter",
    "weather: sunny cloudy rainy windy foggy snowy stormy",
    "material: wood steel glass cotton leather plastic paper stone wool silk copper clay",
    "grade: A B C D E F",
    "status: open closed pending paid late cancelled shipped lost",
    "priority: low medium high urgent",
    "subject: maths history physics biology art music geography chemistry latin economics",
    "instrument: piano violin guitar flute drum harp cello trumpet organ oboe",
    "dish: pizza soup pasta salad curry burger stew risotto omelette pancake lasagna taco",
    "drink: coffee tea cocoa lemonade cider juice water soda punch mocha",
    "cuisine: Thai Indian Italian French Mexican Greek Turkish Chinese Korean Spanish",
    "plant: fern ivy cactus moss basil mint sage aloe orchid bamboo",
    "flower: rose tulip lily daisy poppy iris violet lotus dahlia aster",
    "tree: oak pine birch maple willow elm cedar beech ash poplar",
    "bird: robin crow swan owl gull heron wren stork finch raven",
    "fishes: trout salmon cod tuna eel carp pike perch bass herring",
    "breed: poodle beagle boxer collie husky terrier spaniel corgi whippet dalmatian",
    "river: Danube Rhine Nile Amazon Loire Volga Thames Tagus Elbe Ganges Mekong Hudson",
    "mountain: Etna Elbrus Fuji Rainier Olympus Denali Shasta Teide Eiger Kilimanjaro Vesuvius",
    "island: Malta Crete Corfu Bali Java Cuba Iceland Sicily Samoa Tahiti",
    "airline: Skyway Aerolink Cloudjet Northair Sunwing Pacifica Alpina Meteor Swift Jetline",
    "ship: Aurora Neptune Mermaid Voyager Albatross Poseidon Seagull Victory Endeavour Beagle",
    "book: Dawn Shadows Rivers Silence Harvest Winter Embers Horizon Secrets Lanterns Orchard Tides Mirrors Ashes",
    "movie: Nightfall Gravity Runaway Paradise Echoes Midnight Wildfire Storm Legends Afterglow Crossroads Fugitive Outpost",
    "song: Sunrise Heartbeat Freedom Stardust Memories Thunder Goodbye Moonlight Hometown Dreamer Wanderer Rainbow",
    "game: Labyrinth Galaxy Empire Dungeon Racer Castles Zombies Islands Wizards Robots Tactics Puzzler",
    "title: Waterfall Sunset Portrait Garden Harbor Bridge Dancers Orchard Lighthouse Market Meadow Autumn",
    "style: baroque modern cubist gothic abstract realist classic pop",
    "shape: circle square oval star heart triangle hexagon diamond",
    "gem: ruby opal pearl jade topaz emerald amber garnet sapphire agate",
    "metal: gold iron copper tin lead zinc nickel silver cobalt platinum",
    "tool: hammer saw drill wrench chisel ladder shovel rake pliers axe",
    "toy: doll kite puzzle robot train yoyo ball blocks puppet drone",
    "vehicle: car van truck bus bike scooter tram taxi",
    "fuel: petrol diesel electric hybrid gas hydrogen",
    "system: Linux Windows Android Solaris Haiku Minix",
    "code: Python Java Rust Ruby Swift Scala Perl Haskell Julia Kotlin",
    "format: pdf png txt zip csv doc mp3 html",
    "region: north south east west central coastal",
    "continent: Europe Asia Africa America Oceania",
    "currency: euro dollar pound yen peso rupee krona franc",
    "crop: wheat corn rice barley oats soy rye cotton hemp",
    "cheese: brie gouda cheddar feta edam gruyere stilton ricotta manchego",
    "spice: cumin ginger saffron pepper cinnamon clove paprika nutmeg turmeric anise",
    "dessert: tiramisu brownie pudding sorbet cheesecake eclair waffle trifle baklava custard",
    "position: goalkeeper defender midfielder forward captain striker winger",
    "award: bronze silver gold platinum crystal",
    "room: kitchen bedroom bathroom office hall attic garage cellar lounge",
    "plan: free basic plus premium family student",
    "venue: Arena Palace Forum Garden Stadium Plaza Pavilion Coliseum Theater Dome",
    "hotel: Grand Plaza Royal Bellevue Riverside Palms Astoria Central Harbour Majestic Crown Savoy",
    "school: Lincoln Oakwood Riverdale Hillside Kingsway Brookfield Lakeview Northgate Maplewood Eastside",
    "disease: flu asthma measles malaria diabetes anemia migraine cold gout mumps",
    "medicine: aspirin ibuprofen insulin codeine penicillin cortisone heparin quinine",
    "topic: politics science travel food health sport culture business weather fashion",
    "fabric: linen denim velvet satin tweed flannel lace fleece canvas",
    "garment: shirt coat skirt jacket scarf dress sweater hat glove vest",
    "furniture: chair table sofa desk shelf bed stool lamp wardrobe bench",
    "planet: Mercury Venus Mars Jupiter Saturn Uranus Neptune Kepler Proxima Trappist",
    "star: Vega Sirius Rigel Altair Deneb Spica Polaris Antares Capella Mira",
    "level: beginner intermediate advanced expert",
    "gate: north south east west main",
    "street: Oak Elm Mill Park High Church Bridge Station King Garden",
    "bank: Union Capital Trust Federal Metro Pacific Heritage Liberty",
    "bread: rye ciabatta baguette pretzel brioche naan pita focaccia sourdough bagel",
    "nut: almond walnut hazelnut cashew pecan pistachio peanut chestnut",
    "insect: ant bee wasp moth beetle cricket termite firefly locust ladybug",
    "dance: tango waltz salsa polka rumba samba swing ballet foxtrot",
    "legume: lentil chickpea soybean lupin fava pinto",
    "element: fire water earth air light shadow",
};

static const char *const schemas[] = {
    "singers singer name=person age=18-70 country=country genre=music",
    "books book title=book author=surname year=1950-2024 pages=80-900 language=language",
    "movies movie title=movie director=surname year=1960-2024 genre=film rating=1-10",
    "employees employee name=person department=department salary=1500-9000 age=20-65 city=city",
    "students student name=person subject=subject grade=grade age=6-19 school=school",
    "cars car model=brand color=color price=2000-90000 year=1990-2024 fuel=fuel",
    "hotels hotel name=hotel city=city stars=1-5 price=40-600 rooms=10-400",
    "flights flight airline=airline origin=city destination=city price=40-1500 duration=1-16",
    "players player name=person team=team goals=0-40 age=17-40 position=position",
    "teams team name=team city=city sport=sport wins=0-60 losses=0-60",
    "cities city name=city country=country population=5000-900000 area=10-2000",
    "rivers river name=river continent=continent length=100-7000 depth=2-90",
    "mountains mountain name=mountain country=country height=500-8800 climbs=0-900",
    "islands island name=island country=country area=5-9000 population=100-90000",
    "dogs dog name=person breed=breed age=1-16 weight=2-60 owner=surname",
    "cats cat name=person color=color age=1-20 weight=2-12",
    "horses horse name=person color=color speed=20-80 wins=0-30 owner=surname",
    "fruits fruit name=fruit color=color price=1-30 country=country",
    "vegetables vegetable name=vegetable color=color price=1-20 season=season",
    "recipes recipe dish=dish cuisine=cuisine minutes=5-180 calories=100-1500",
    "restaurants restaurant name=hotel cuisine=cuisine city=city rating=1-10 seats=10-200",
    "drinks drink name=drink price=1-15 size=100-900 sugar=0-60",
    "purchases purchase customer=surname product=tool price=5-900 status=status month=month",
    "products product name=tool brand=brand price=3-500 stock=0-900 material=material",
    "toys toy name=toy color=color price=2-90 age=1-12 material=material",
    "shops shop name=company city=city street=street staff=1-90 sales=1000-90000",
    "customers customer name=person city=city age=18-90 plan=plan orders=0-60",
    "invoices invoice client=company price=50-9000 status=status month=month",
    "tickets ticket caller=surname priority=priority status=status days=0-60",
    "tasks task owner=person priority=priority hours=1-80 status=status",
    "concerts concert artist=person venue=venue city=city price=10-250 month=month",
    "songs song title=song artist=person genre=music year=1960-2024 length=90-600",
    "albums album title=song artist=surname year=1960-2024 tracks=5-25 sales=100-90000",
    "paintings painting title=title artist=surname style=style year=1500-2020 price=100-90000",
    "museums museum name=hotel city=city visitors=1000-90000 price=0-40 founded=1700-2010",
    "schools school name=school city=city pupils=50-2000 teachers=5-150",
    "teachers teacher name=surname subject=subject age=23-66 salary=1800-6000 school=school",
    "courses course subject=subject teacher=surname hours=10-120 level=level price=0-900",
    "exams exam subject=subject month=month minutes=30-240 points=20-200 room=room",
    "doctors doctor name=surname city=city age=28-70 patients=10-900 language=language",
    "patients patient name=person disease=disease age=1-99 doctor=surname days=1-60",
    "medicines medicine name=medicine disease=disease price=2-200 dose=1-900",
    "nurses nurse name=person hospital=hotel shifts=5-30 age=21-65",
    "farms farm owner=surname crop=crop area=5-900 cows=0-300 region=region",
    "crops crop name=crop region=region price=50-900 harvest=10-900 season=season",
    "trees tree kind=tree park=street height=2-60 age=1-300",
    "flowers flower name=flower color=color price=1-20 month=month",
    "birds bird species=bird region=region weight=10-9000 eggs=1-12",
    "fishes fish species=fishes river=river length=5-200 weight=1-90",
    "zoos zoo city=city animals=50-5000 area=2-300 price=5-50",
    "animals animal species=animal name=person age=1-40 weight=1-900 continent=continent",
    "ships ship name=ship captain=surname length=20-400 year=1900-2024 crew=5-900",
    "trains train line=street origin=city speed=60-320 seats=50-900 delay=0-90",
    "buses bus line=street stops=4-50 driver=person seats=20-90",
    "bikes bike brand=brand color=color price=80-5000 gears=1-30 weight=6-25",
    "trucks truck driver=surname brand=brand load=500-30000 year=1990-2024 fuel=fuel",
    "phones phone model=brand price=80-1500 memory=16-900 color=color battery=1000-7000",
    "laptops laptop model=brand system=system price=200-4000 weight=1-5 memory=4-128",
    "games game title=game system=system players=1-8 price=5-80 year=1985-2024",
    "apps app name=game downloads=100-90000 rating=1-10 price=0-30 system=system",
    "servers server name=planet city=city memory=8-900 load=1-100 system=system",
    "files file owner=person format=format size=1-9000 month=month",
    "projects project leader=person code=code budget=1000-90000 months=1-48 status=status",
    "developers developer name=person code=code salary=2000-9000 bugs=0-90 city=city",
    "meetings meeting topic=topic day=weekday room=room minutes=10-180 guests=2-60",
    "events event name=dance city=city month=month guests=20-9000 price=0-200",
    "matches match winner=team loser=team points=1-120 day=weekday city=city",
    "races race winner=person distance=1-300 minutes=3-600 city=city year=1980-2024",
    "runners runner name=person country=country age=16-60 minutes=10-300 medals=0-12",
    "swimmers swimmer name=person country=country height=150-210 seconds=20-400",
    "boxers boxer name=surname country=country weight=48-120 wins=0-60 losses=0-20",
    "stadiums stadium name=venue city=city seats=1000-90000 built=1900-2024 team=team",
    "banks bank name=bank country=country branches=1-900 profit=10-9000",
    "accounts account owner=surname bank=bank balance=0-90000 currency=currency",
    "loans loan client=surname bank=bank price=500-90000 years=1-30 status=status",
    "houses house street=street city=city rooms=1-12 price=40000-900000 year=1900-2024",
    "flats flat street=street floor=0-20 rent=300-4000 rooms=1-7 owner=surname",
    "rooms room kind=room color=color area=4-80 windows=0-8",
    "chairs chair material=material color=color price=15-900 weight=2-30",
    "lamps lamp brand=brand material=material price=5-400 watts=3-150",
    "seats seat kind=furniture material=material price=20-3000 weight=1-150 color=color",
    "clothes garment kind=garment fabric=fabric color=color price=5-500 size=32-56",
    "rings ring gem=gem metal=metal price=50-9000 weight=1-30",
    "gems gem name=gem color=color country=country price=20-9000 hardness=1-10",
    "metals metal name=metal price=1-9000 density=2-23 country=country",
    "planets planet name=planet star=star moons=0-90 radius=1000-90000 year=1600-2024",
    "stars star name=star color=color distance=4-9000 mass=1-60",
    "rockets rocket name=ship country=country height=10-120 launches=0-300 year=1957-2024",
    "newspapers newspaper name=company city=city readers=1000-90000 price=1-9 founded=1800-2010",
    "articles article topic=topic author=surname words=100-9000 month=month clicks=0-90000",
    "authors author name=surname country=country books=1-60 born=1850-2000 language=language",
    "libraries library city=city books=1000-90000 visitors=100-9000 street=street",
    "letters letter sender=person receiver=surname city=city weight=5-900 month=month",
    "parcels parcel sender=company city=city weight=1-40 price=3-90 status=status",
    "cheeses cheese name=cheese country=country price=5-60 fat=10-70 age=1-60",
    "breads bread name=bread bakery=surname price=1-12 weight=50-2000",
    "cakes cake name=dessert baker=person price=3-90 calories=100-900 slices=4-24",
    "spices spice name=spice country=country price=1-90 stock=0-900",
    "nuts nut name=nut country=country price=2-50 calories=300-800",
    "gardens garden owner=person plant=plant area=5-900 flowers=0-900 city=city",
    "insects insect species=insect color=color legs=6-8 length=1-90 continent=continent",
    "dancers dancer name=person dance=dance age=8-60 medals=0-20 country=country",
    "bands band name=ship genre=music members=2-12 albums=0-30 city=city",
    "pianists pianist name=surname country=country concerts=1-400 age=15-90 award=award",
    "instruments instrument kind=instrument maker=surname price=50-9000 year=1700-2024 material=material",
    "lessons lesson instrument=instrument teacher=person minutes=15-120 price=10-120 day=weekday",
    "members member name=person plan=plan age=14-85 visits=0-300 city=city",
    "forecasts forecast city=city day=weekday weather=weather degrees=1-40 wind=0-120",
    "voters voter name=surname region=region age=18-99 street=street",
    "pilots pilot name=surname airline=airline hours=100-20000 age=22-65 country=country",
    "airports airport city=city country=country gates=2-200 flights=10-1500",
    "camps camp name=tree lake=river tents=5-300 price=5-60 season=season",
    "wizards wizard name=person element=element power=1-100 age=20-900 castle=hotel",
};
enum { POOLS = sizeof pools / sizeof *pools, SCHEMAS = sizeof schemas / sizeof *schemas };

/* Cuts the next word off *at into the arena; NULL at the end. */
static char *word_next(const char **at, Arena *a)
{
    const char *from = *at + strspn(*at, " ");
    size_t len = strcspn(from, " ");
    *at = from + len;
    return len ? arena_format(a, "%.*s", (int)len, from) : NULL;
}

static void column_pool(SqlColumn *c, const char *name, Arena *a)
{
    size_t len = strlen(name), most = 1;
    for (size_t i = 0; i < POOLS; i++) {
        if (strncmp(pools[i], name, len) != 0 || pools[i][len] != ':') continue;
        const char *at = pools[i] + len + 1, *word;
        for (const char *s = at; *s; s++) most += *s == ' ';
        const char **value = arena_new(a, const char *, most);
        while ((word = word_next(&at, a))) value[c->values++] = word;
        c->value = value;
        return;
    }
    bug("no pool of words is called %s", name);
}

static void schema_parse(SqlSchema *s, const char *line, Arena *a)
{
    char *column;
    s->table = word_next(&line, a), s->row = word_next(&line, a);
    while ((column = word_next(&line, a))) {
        ASSERT(s->columns < SCHEMA_COLUMNS);
        SqlColumn *c = &s->column[s->columns++];
        char *type = strchr(column, '=');
        ASSERT(type);
        *type++ = 0, c->name = column;
        if (*type < '0' || *type > '9') {
            column_pool(c, type, a);
            continue;
        }
        char *high = strchr(type, '-');
        ASSERT(high);
        c->low = strtoll(type, NULL, 10), c->high = strtoll(high + 1, NULL, 10);
    }
    ASSERT(s->columns >= 3 && s->column[0].value);
}

void sql_schemas(SqlSchema **out, size_t *count, Arena *a)
{
    *out = arena_new(a, SqlSchema, SCHEMAS);
    *count = SCHEMAS;
    for (size_t i = 0; i < SCHEMAS; i++) schema_parse(&(*out)[i], schemas[i], a);
}
