"""Words of English that names of events and of commands are made of: see `choreo.events.tense`. Data only."""

#: Irregular verbs: the command → the past tense, and the participle if it is another word.
IRREGULAR: dict[str, tuple[str, ...]] = {
    line.split()[0]: tuple(line.split()[1:])
    for line in (
        "arise arose arisen;awake awoke awoken;bear bore borne born;beat beat beaten;become became;begin began begun;"
        "bend bent;bet bet;bid bid;bind bound;bite bit bitten;bleed bled;blow blew blown;break broke broken;breed bred;"
        "bring brought;broadcast broadcast;build built;burn burnt;burst burst;buy bought;cast cast;catch caught;"
        "choose chose chosen;cling clung;come came;cost cost;creep crept;cut cut;deal dealt;dig dug;do did done;"
        "draw drew drawn;dream dreamt;drink drank drunk;drive drove driven;eat ate eaten;fall fell fallen;feed fed;"
        "feel felt;fight fought;find found;flee fled;fling flung;fly flew flown;forbid forbade forbidden;"
        "foresee foresaw foreseen;forget forgot forgotten;forgive forgave forgiven;forgo forwent forgone;"
        "freeze froze frozen;get got gotten;give gave given;go went gone;grind ground;grow grew grown;hang hung;"
        "have had;hear heard;hide hid hidden;hit hit;hold held;hurt hurt;input input;keep kept;kneel knelt;"
        "know knew known;lay laid;lead led;leap leapt;learn learnt;leave left;lend lent;let let;lie lay lain;"
        "light lit;lose lost;make made;mean meant;meet met;mislead misled;misread misread;mistake mistook mistaken;"
        "offset offset;outbid outbid;outdo outdid outdone;outgrow outgrew outgrown;overcome overcame;"
        "overdraw overdrew overdrawn;override overrode overridden;overrun overran;oversee oversaw overseen;"
        "oversell oversold;overtake overtook overtaken;overthrow overthrew overthrown;overwrite overwrote overwritten;"
        "pay paid;prepay prepaid;put put;quit quit;read read;rebuild rebuilt;redo redid redone;remake remade;"
        "repay repaid;rerun reran;resell resold;resend resent;reset reset;rewind rewound;rewrite rewrote rewritten;"
        "rid rid;ride rode ridden;ring rang rung;rise rose risen;run ran;saw sawed sawn;say said;see saw seen;"
        "seek sought;sell sold;send sent;set set;sew sewed sewn;shake shook shaken;shed shed;shine shone;shoot shot;"
        "show showed shown;shrink shrank shrunk;shut shut;sing sang sung;sink sank sunk;sit sat;sleep slept;slide slid;"
        "sling slung;speak spoke spoken;speed sped;spell spelt;spend spent;spill spilt;spin spun;split split;"
        "spoil spoilt;spread spread;spring sprang sprung;stand stood;steal stole stolen;stick stuck;sting stung;"
        "strike struck stricken;swear swore sworn;sweep swept;swell swelled swollen;swim swam swum;swing swung;"
        "take took taken;teach taught;tear tore torn;tell told;think thought;throw threw thrown;thrust thrust;"
        "typeset typeset;undergo underwent undergone;understand understood;undertake undertook undertaken;"
        "undo undid undone;unset unset;unwind unwound;uphold upheld;upset upset;wake woke woken;wear wore worn;"
        "weave wove woven;wed wed;weep wept;wet wet;win won;wind wound;withdraw withdrew withdrawn;"
        "withhold withheld;withstand withstood;wring wrung;write wrote written"
    ).split(";")
}
#: Participles that are no form of a verb above.
OTHER_PARTICIPLES = frozenset("lain led unheld unmade unpaid unread unseen unsent unsold untold unwritten".split())
#: What an irregular verb may begin with: "overpaid", "resold".
PREFIXES = ("mis", "out", "over", "pre", "re", "un", "under")
#: Words in -ed that are no participles.
NO_PARTICIPLES = frozenset(
    "bed bleed breed creed deed embed exceed feed greed heed hundred infrared kindred moped naked need precede proceed "
    "red reed sacred seed shed shred sled speed steed succeed supersede tweed wed weed wicked".split()
)
#: Verbs that are never the thing that an event happened to: a name that begins with one is a command.
ORDERS = frozenset(
    "abandon accelerate accept achieve acknowledge acquire activate adapt add adjust administer admit adopt advertise "
    "advise aggregate agree align allocate allow alter amend analyse analyze annotate announce anonymize append apply "
    "appoint approve archive arrange ask assemble assert assess assign assist associate assume attach attend "
    "authenticate authorise authorize await become begin bind bisect block boot bring browse buffer buy calculate "
    "calibrate cancel change choose clarify classify clean clear close collate collect combine come commence compare "
    "compensate compile complete compose compress compute concatenate conclude conduct configure confirm connect "
    "consider consolidate construct consult consume contain continue convert convey convince coordinate cordon "
    "correct correlate create cultivate customize deactivate deallocate decide declare decline decode decommission "
    "decompress decorate decrement decrypt deduct deduplicate defer define degrade delegate delete deliver demote "
    "deny depart deprecate deprovision deregister derive describe deselect deserialize destroy detach detect "
    "determine dig disable disallow disassociate disburse discard disconnect discover dismantle dismiss dispense "
    "dispose disseminate dissolve distribute divide do downgrade earn eat elect eliminate emit employ enable encode "
    "encourage encrypt enforce engage enhance enlarge enlist enqueue enrich enrol enroll ensure enter enumerate equip "
    "erase escalate establish evacuate evaluate evict examine exclude execute exempt expand expect expel expire "
    "explain explore expose express extend facilitate fail finalise finalize flatten flush follow forbid force forget "
    "format forward fulfil fulfill gather generate get give go guide have hear hide highlight identify ignore "
    "illustrate implement impose improve include incorporate inform inherit initialise initialize initiate inject "
    "inspect instantiate instruct insure integrate intercept interpret interrupt introduce invalidate investigate "
    "invoke isolate iterate keep know lend let liquidate listen load localize locate lose lower maintain make manage "
    "mark materialize maximize migrate minimize mitigate modernize modify mutate navigate negotiate normalize notify "
    "nullify obtain occupy offload omit onboard open operate optimize orchestrate organize overcome overdraw "
    "overwrite parse paste perform persist ping poll populate possess postpone predict prefer prepare prepay "
    "preprocess prescribe preserve prevent prioritize proceed procure promote propagate propose protect provide "
    "provision prune publish put qualify quarantine quit reach react realize reallocate reassign rebalance "
    "recalculate receive recharge reclaim recognize recommend recompute reconcile reconfigure reconnect reconstruct "
    "recover recreate recruit rectify recycle redact redeem redefine redeliver redeploy redo redraw reduce reencrypt "
    "refer refine reformat refuse regenerate register reindex reinforce reinitialize reinstall reinstate reject "
    "relocate remember remind remove render renew reopen reorganize repay repeat replace replenish replicate "
    "republish requeue require reschedule rescind resell resend reserve resize resolve respond restock restrict "
    "resubmit resync retain retire retrieve retrigger reuse revalidate revise revive revoke rid rotate sanitize "
    "scrape see seek select sell send serialize serve set settle shut silence simplify simulate skip solicit solve "
    "specify spend stabilize standardize stash steal strengthen stringify submit subscribe subtract suggest summarize "
    "summon supervise suppress suspend synchronise synchronize taint take teach tell terminate throw transact "
    "transcode transcribe translate transmit transpile treat trim truncate unarchive unassign unban unblock uncordon "
    "undelete undo unfollow unfreeze uninstall unlink unload unlock unmount unpack unpause unpin unpublish unregister "
    "unschedule unset unstar unsubscribe unsuspend untag unwind unzip upsert utilize validate vary verify visualize "
    "void wake warm warn weigh whitelist withdraw withhold write yield zip".split()
)
#: Verbs that are nouns as well: "ReleasePublished" is a fact, "ReleaseStock" a command.
NOUNS_TOO = frozenset(
    "abort access act address advance age aim alarm alert amount answer appeal approach arrest assault attack attempt "
    "attribute auction audit award back backup balance ban bar base batch beat benefit bet bid bill blame board book "
    "boost bounce branch breach break brief broadcast budget build bundle burn bypass call campaign capture care cash "
    "cast catch cause challenge channel charge chart chat check checkout claim click clone cluster coach code "
    "collapse comment commission commit compound concern condition conflict contact contest contract control cook "
    "copy cost count counter cover crash crawl credit crop cure curse cut cycle damage date deal debate debit debug "
    "decrease delay demand deploy deposit design detail dial diff digest dip discharge discount dispatch display "
    "dispute document dose doubt download draft drain draw dream dress drill drink drive drop dump duplicate echo "
    "edit effect elevate empty end escape estimate exchange excuse exec exercise exit experience experiment export "
    "extract face fall favor favour fax fear feature feed fetch field fight figure file fill film filter find finish "
    "fire fish fit fix flag flash flight float flood flow fold fork form frame freeze front fuel function fund gain "
    "gap gauge gift glance grade grant graph grip group guarantee guard guess guest halt handle harm harvest hash "
    "head heat help hire hit hold home host hunt image impact import increase increment index input insert install "
    "insult interest interview invite invoice iron issue jail join judge jump kick kill knock label land lapse laugh "
    "launch layer lead leak lease leave level license lie lift light like limit line link list loan lock log look "
    "loop love mail map market mask master match matter measure mention merge message meter mind mirror miss mix mock "
    "model monitor motion mount move mute name need nest note notice number object offer offset order outline output "
    "override pace pack page paint park part partition pass patch pattern pause pay peak permit phase phone photo "
    "pick picture pilot pin pipe pitch place plan plant play plot point police pool port position post pound power "
    "practice praise present press preview price print probe process produce profile profit program progress project "
    "promise prompt prospect protest prototype pull purchase purge push quarrel query question queue quote race rain "
    "raise range rank rate ration read rebase rebel reboot rebuild recall record redesign redirect reform refresh "
    "refund regard release relief reload remake remark remedy rename rent reorder repair replay reply report repost "
    "request rerun rescue research reset resource rest restart restore result resume retail retreat retry return "
    "reverse revert review reward rewrite ride ring rise risk roast rock roll rollback rollout round route row rule "
    "run rush sample sanction save scale scan schedule scheme score screen seal search seat section seed sense "
    "sentence sequence service shape share shelter shift shine ship shock shoot shop show shutdown sign signal sketch "
    "sleep slice slip smoke snooze sort sound source space spark split sponsor spot spray spread stage stain stake "
    "stamp stand star start state station stay step stitch stock stop store storm stream stress stretch strike string "
    "strip stroke structure struggle study style subject sum supply support surface surprise surrender survey swap "
    "switch sync table tag tail talk target task taste tax tear tender test text theme thread throttle time tip title "
    "toast toggle top torture total touch tour tow toy trace track trade traffic train transfer transform transport "
    "trap travel trial trick trigger trip trouble trust try tune turn twist type update upgrade upload use value view "
    "visit voice vote wage wait walk want warrant wash waste watch water wave wear weight wipe wish witness wonder "
    "work worry wound wrap wreck zone".split()
)
#: Nouns that are verbs as well, but begin names of events far more often.
NOUNS_FIRST = frozenset(
    "account amount batch battery bid branch channel cluster code field flight function group guest image invoice "
    "line message meter object order page part partition phone port position power price program project queue quote "
    "rate resource row rule section sensor service shop source station stock store stream string subject table task "
    "team thread vote water".split()
)
#: A thing is so: "ItemMissing", "DiskFull".
STATES = frozenset(
    "absent active ahead alive available awake away back behind broke busy complete critical current dead "
    "defective due duplicate early eligible empty excessive faulty final full gone healthy high hot idle ill "
    "illegal imminent inactive incomplete inconsistent incorrect ineligible insufficient invalid late live low "
    "missing negative obsolete offline online open outdated outstanding overdue overweight pending positive "
    "present ready safe short sick silent slow stable stale successful sufficient unavailable unclear unfit "
    "unhealthy unknown unsafe unstable unsuccessful upcoming urgent vacant valid wrong".split()
)
#: Words in -able and -ible that are no states, and words in -ing that name a thing or an activity.
NO_STATES = frozenset(
    "accounting advertising banking beginning being bidding billing booking briefing budgeting building cable casting "
    "ceiling clearing clothing coding constable coupling deliverable disable drawing dressing enable engineering "
    "evening feeling filing financing forecasting funding gaming handling hearing heating holding housing invoicing "
    "king landing learning lending licensing lighting listing logging mailing mapping marketing meaning meeting "
    "messaging modeling monitoring morning nothing offering onboarding opening ordering outing parking payable "
    "planning pricing programming provisioning ranking rating reading receivable recording reporting ring routing "
    "saving scheduling scoring screening setting shading shipping shopping signing sling something spelling spring "
    "staging standing sting string table testing thing ticketing timetable timing tracking trading training "
    "understanding variable vegetable voting warning wearable wedding wing wiring writing".split()
)
#: Where a thing is: "LightsOff". After a verb they belong to it: "SignUp".
PARTICLES = frozenset("down in off on out over up".split())
#: The beginning of a state: "StockBelowMinimum", "CardAboutToExpire".
RELATIONS = frozenset("about above at below beneath beyond near over under without".split())
#: "BookOnHold", "VariantsInStock", "PrinterOutOfPaper": the words after "in", "on" and "out".
PHRASES = {
    "in": frozenset(
        "arrears business conflict danger default dispute error force flight operation place process progress review "
        "stock sync transit trouble use".split()
    ),
    "on": frozenset("backorder call duty fire hold leave loan sale schedule strike time track".split()),
    "out": frozenset({"of"}),
}
#: Verbs that tell what is, was or will be: "InvoiceWillBeDue", "PaymentRequiresAction".
AUXILIARIES = frozenset(
    "is are was were has have had will wont cannot does doesnt did didnt isnt wasnt became exceeds lacks needs remains "
    "requires seems".split()
)
#: Words that make a question or a condition of a name: "CheckIfPaid".
CONDITIONS = frozenset("if that until whether".split())
#: Words after which a participle or a state still says what happened: "OrderConfirmedByRestaurant".
TAILS = frozenset(
    "about above after again against all along already among apart as aside at automatically away back because "
    "before behind below between beyond by down due during early externally few for forward from if immediately "
    "in into late longer manually near of off on once onto out outside over partially per permanently since so "
    "soon successfully than through till to today together too twice under until up upon via when while with "
    "within without".split()
)
#: Words that are never a noun of a command: "ShipOrderNow", "SendEmailToCustomer".
NO_NOUNS = TAILS | frozenset(
    "all and are asap be can has have is it next not now or please quickly ready that the then this tomorrow".split()
)
#: Words between a verb and its object: "CloseAllExpiredSessions".
DETERMINERS = frozenset("a all an any each every no old some the up out down off".split())
#: Verbs that double their last letter: "shipped".
DOUBLED = frozenset(
    "admit ban commit defer drop enrol equip expel fit flag log map omit pin plan plot prefer refer rid scan scrap "
    "ship skip snap spot stop submit swap tag tip transfer trim unpin untag wrap zip".split()
)
