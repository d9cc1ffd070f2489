"""The table of verbs. Data only: the handlers are imported when they run (`main.run_verb`)."""

from __future__ import annotations

from typing import Final

from drupelet.cli.grammar import Argument, Option, Verb

_NODE: Final = Argument("NODE", "a node's name, as `drupelet nodes` or `grants` lists them")
_MISSION: Final = Argument("MISSION", "a mission's name")
_FUNCTION: Final = Argument("FUNCTION", "one of its exports")
_ARGUMENTS: Final = Argument(
    "ARG", "an argument: what parses as JSON is that value, anything else a string", False, True
)
_TIMEOUT: Final = Option("timeout", "seconds to wait for the answer (default 5)", "S")
_KEY: Final = Option("key", "an idempotency key: calls with the same one run once", "TEXT")
_VALUES: Final = (
    'Values are printed as JSON. What JSON lacks: bytes are {"$bytes": "base64"}, NaN is\n'
    '{"$float": "nan"}, a map with integer keys {"$map": [[1, "one"]]}. Arguments may use these.'
)
_TO: Final = Option("to", "for this key, or a member's name (default: whoever has the file)", "KEY")
_GRANT_FILE: Final = Argument("FILE", "a grant's file; - reads standard input")
_TERMS: Final = (
    _TO,
    Option("only", "these functions (default: all that the mission exports)", "F,G"),
    Option("rate", "so many calls in a time: 10/s, 10/m, 10/h, 3/20s", "N/T"),
    Option("burst", "so many of these at once after a rest (default: the rate's N)", "N"),
    Option("concurrent", "so many calls at the same time", "N"),
    Option("bytes", "so many bytes of arguments in one call", "N"),
    Option("expires", "for so long: 90s, 15m, 12h, 30d, 2w (default: until revoked)", "T"),
    Option("delegable", "how often it can be handed on, 0 to 3 (default 0)", "N"),
    Option("out", "write it to a new file that only you can read", "FILE", "o"),
    Option("text", "print it"),
    Option("qr", "draw it as a QR code"),
)
_LESS: Final = (  # the same, of what a grant leaves
    _TO,
    Option("only", "these functions (default: all of the grant)", "F,G"),
    *_TERMS[2:6],
    Option("expires", "for so long from the first call: 90s, 15m, 12h, 30d (default: as it)", "T"),
    *_TERMS[7:],
)

_VERBS: Final = (
    Verb(
        "status",
        "Show the local node: name, key, version, uptime and load.",
        "nodes:status",
        examples=("drupelet status", "drupelet --json status"),
    ),
    Verb(
        "nodes",
        "List the other nodes of the cluster and whether they are up.",
        "nodes:nodes",
        examples=("drupelet nodes", "drupelet --json nodes"),
    ),
    Verb(
        "ping",
        "Ask whether a node answers, and how fast; exit code 5 when it does not.",
        "calls:ping",
        (_NODE,),
        (_TIMEOUT,),
        ("drupelet ping bilbo", "drupelet --json ping bilbo"),
    ),
    Verb(
        "why",
        "Find the first broken step on the way to a node, a mission or a function, and its mend.",
        "calls:why",
        (
            _NODE,
            Argument("MISSION", "also check that the node serves this mission", False),
            Argument("FUNCTION", "also check that the mission exports this function", False),
        ),
        (_TIMEOUT,),
        ("drupelet why bilbo", "drupelet why bilbo kvs store"),
        "It tries, in order: name, mapper, port, key, member, call, mission, function, code;\n"
        "of a node that granted you something: name, port, grant; through a relay: relay and\n"
        "announced before it.\n"
        "Exit code 0 when nothing is broken.",
    ),
    Verb(
        "names",
        "List the names in a machine's port mapper (also those of Erlang nodes).",
        "nodes:names",
        (Argument("HOST", "a host name or address (default: this machine)", False),),
        examples=("drupelet names", "drupelet names 192.168.1.7"),
    ),
    Verb(
        "call",
        "Call a function of a mission on a node and print its value.",
        "calls:call",
        (_NODE, _MISSION, _FUNCTION, _ARGUMENTS),
        (_TIMEOUT, _KEY),
        (
            "drupelet call gandalf kvs store weather fine",
            "drupelet call bilbo kvs lookup weather",
            "drupelet call --timeout 60 bilbo kitchen boil 1.5",
            "drupelet call bilbo echo echo -- --a-text-with-dashes",
            "drupelet call --key order-17 bilbo kitchen boil 1.5",
        ),
        _VALUES + "\n\n"
        "Of all calls with one --key, one runs, also over power cuts, and each gets its outcome,\n"
        "for seven days: after exit code 5 or 6, type the same again.",
    ),
    Verb(
        "cast",
        "Call a function without waiting for an answer.",
        "calls:cast",
        (_NODE, _MISSION, _FUNCTION, _ARGUMENTS),
        (_KEY,),
        (
            "drupelet cast bilbo kvs store weather fine",
            "drupelet cast --key order-17 bilbo kitchen boil 1.5",
        ),
        "To a node that granted you something, and with --key to any: done means that it is on\n"
        "disk here; it runs once, when the node can be reached, within seven days. To a member\n"
        "without --key: done means sent once, if the node is up. Whether it ran is not told; what\n"
        "went wrong is in the daemon's log (cast_failed).",
    ),
    Verb(
        "casts",
        "List the casts that are kept because their nodes did not run them yet.",
        "calls:casts",
        examples=("drupelet casts", "drupelet --json casts"),
    ),
    Verb(
        "multicall",
        "Call a function on many nodes at once, with one deadline.",
        "calls:multicall",
        (
            Argument("NODES", "`all` (the local node and those that are up), or names with commas"),
            _MISSION,
            _FUNCTION,
            _ARGUMENTS,
        ),
        (_TIMEOUT,),
        ("drupelet multicall all node ping", "drupelet multicall bilbo,frodo kvs lookup weather"),
        '--json prints {"NODE": {"value": ...} or {"error": {...}}}.\n'
        "Exit code 0 when every node answered.",
    ),
    Verb(
        "nl",
        "Ship new code of a mission to the local node and all connected members.",
        "code:nl",
        (
            Argument(
                "MODULE", "a .py file, or a module or mission that the local node has", True, True
            ),
        ),
        (
            Option("mission", "the mission, when its name is not the first module's", "M"),
            Option("timeout", "seconds to wait for all nodes (default 120)", "S"),
        ),
        (
            "drupelet nl kvs",
            "drupelet nl kitchen.py",
            "drupelet nl kitchen.py ovens.py",
        ),
        "Running workers take it in place; calls under way finish on the old code.\n"
        "It stays after a restart, until the operator edits the mission's own file.",
    ),
    Verb(
        "ps",
        "List the processes of a node, or of all nodes.",
        "ps:ps",
        (Argument("NODE", "a node's name (default: the local node and those that are up)", False),),
        examples=(
            "drupelet ps",
            "drupelet ps bilbo",
            "drupelet --json ps bilbo",
        ),
        notes="MESSAGES wait in its mailbox, RECEIVED came so far, LINKS counts its links;\n"
        "--json has the linked pids and more. MISSION is where it runs: a mission, or a client.",
    ),
    Verb(
        "trace",
        "Show every message of a process, in order, while it happens.",
        "trace:trace",
        (
            Argument(
                "PROCESS", "PID, NAME or NAME@NODE, as `drupelet ps` lists them (in '' with <>)"
            ),
        ),
        examples=(
            "drupelet trace resa_server",
            "drupelet trace resa_server@bilbo",
            "drupelet trace gandalf.17.1099511627777",
            "drupelet --json trace resa_server@bilbo",
        ),
        notes="It ends with the process, or with Ctrl-C. --json: one document for each event.",
    ),
    Verb(
        "shell",
        "A Python prompt that is a process of the local node, as `erl` is.",
        "shell:shell",
        examples=(
            "drupelet shell",
            'echo \'call("bilbo", "kvs", "lookup", "weather")\' | drupelet shell',
            "echo 'spawn(send, self(), 42); receive()' | drupelet shell",
        ),
        notes="Ready: spawn send receive flush self link monitor exit register whereis...,\n"
        "all that `from drupelet import` has, and call, cast, multicall, node, i.\n"
        "On a line of its own `await` may be left out; inside `async def` it may not.\n"
        "Ctrl-C cancels the running line, Ctrl-D or exit() leaves.\n"
        "From a pipe: exit code 1 if a line raised.",
        json=False,
    ),
    Verb(
        "grant",
        "Let somebody who is no member call functions of a mission of the local node.",
        "grants:grant",
        (_MISSION,),
        _TERMS,
        (
            "drupelet grant light --only temp --rate 10/m -o bob.grant",
            "drupelet grant light --to KEY --expires 30d --delegable 1 -o bob.grant",
            "drupelet grant light --only on,off --concurrent 1 --qr",
        ),
        "KEY is what `drupelet status` prints on their node; they type: drupelet accept FILE.\n"
        "All limits hold together. Without --to the file is a key: who has a copy may call.",
    ),
    Verb(
        "accept",
        "Keep a grant that somebody gave you; then `drupelet call` reaches their node.",
        "grants:accept",
        (_GRANT_FILE,),
        examples=("drupelet accept bob.grant", "drupelet accept -"),
    ),
    Verb(
        "forget",
        "Keep a grant no more that you accepted.",
        "grants:forget",
        (Argument("ID", "its id: `drupelet grants` lists those accepted"),),
        examples=("drupelet forget 0123456789abcdef0123456789abcdef",),
        notes="It still counts for whoever has its file. Only who issued it can revoke it.",
    ),
    Verb(
        "narrow",
        "Make a grant for somebody else from one that you hold, with less in it.",
        "grants:narrow",
        (_GRANT_FILE,),
        _LESS,
        (
            "drupelet narrow bob.grant --to KEY --only temp --rate 1/m -o dave.grant",
            "drupelet narrow bob.grant --expires 1d --text",
        ),
        "What is left out stays as it was, but for --to and --delegable; every limit of the\n"
        "grant before it counts too.\n"
        "It ends when that one is revoked. The grant must be --delegable.",
    ),
    Verb(
        "sign",
        "Print a call as a line for curl, for a node at a relay that granted you the function.",
        "sign:sign",
        (_NODE, _MISSION, _FUNCTION, _ARGUMENTS),
        (
            Option("file", "sign with this grant (default: one that was accepted)", "FILE"),
            _KEY,
        ),
        (
            "drupelet sign alice light temp",
            "drupelet sign alice light dim 5 | sh",
            "drupelet sign --file bob.grant alice light temp",
            "drupelet --json sign alice light temp",
        ),
        "The line counts once, within a minute; where it runs, no Drupelet is needed. The relay\n"
        "sees the arguments and the value of such a call, and can alter neither.",
    ),
    Verb(
        "grants",
        "List the grants that the local node issued, and those that it accepted.",
        "grants:grants",
        examples=("drupelet grants", "drupelet --json grants"),
    ),
    Verb(
        "revoke",
        "Take grants back at once: calls under way are cancelled, new ones refused.",
        "grants:revoke",
        (Argument("WHAT", "a grant's id, a holder's key or member's name, or a mission"),),
        examples=("drupelet revoke 0123456789abcdef0123456789abcdef", "drupelet revoke light"),
        notes="What was handed on from it ends too. Done means that nothing of it can run any\n"
        "more, also after a restart. A key: all that was granted to it up to now.",
    ),
    Verb(
        "relay",
        "Show the connection to the relay, or who is there with something for this node.",
        "relay:relay",
        (Argument("catalogue", "list the nodes that this node's key matches", False),),
        examples=("drupelet relay", "drupelet relay catalogue", "drupelet --json relay"),
        notes="Exit code 5 when the relay has not let this node in; `mend` says what to do then.\n"
        "MISSIONS is the relay's word, GRANTED what this node holds a grant of.",
    ),
    Verb(
        "log",
        "Show who called by a grant, who was refused, and what was granted and revoked.",
        "log:log",
        (Argument("MISSION", "only this mission's entries (default: all)", False),),
        (
            Option("since", "the last 90s, 15m, 12h, 30d, 2w (default: all)", "T"),
            Option("count", "the last N entries, 1 to 10000 (default 1000)", "N"),
            Option("check", "tell whether the log was changed, and print its last hash"),
            Option("hash", "with --check: whether the entry with this hash is still there", "HASH"),
        ),
        (
            "drupelet log kitchen --since 1h",
            "drupelet log --count 20",
            "drupelet log --check",
            "drupelet --json log kitchen",
        ),
        "Calls of members are not in it. Of refusals that are alike the first is written, and\n"
        "how many more came within a minute. --check: exit code 1 when an entry was changed,\n"
        "taken out or put in; a cut end shows only by a hash that was written down elsewhere.",
    ),
    Verb(
        "metrics",
        "Print the local node's counters as Prometheus text.",
        "nodes:metrics",
        examples=("drupelet metrics", "drupelet metrics | grep calls"),
    ),
    Verb(
        "missions",
        "List the missions that the local node serves.",
        "nodes:missions",
        examples=("drupelet missions", "drupelet --json missions"),
    ),
    Verb(
        "demo",
        "Start a cluster on this machine in the foreground and say what to try.",
        "demo:demo",
        (),
        (
            Option("nodes", "how many nodes, 1 to 16 (default 3)", "N", "n"),
            Option("mapper-port", "the port mapper's port (default 4369, epmd's)", "PORT"),
        ),
        ("drupelet demo", "drupelet demo -n 5"),
        "Ctrl-C stops all of it. State stays in ~/.local/state/drupelet/demo.",
        json=False,
    ),
    Verb(
        "run",
        "One node in the foreground that serves the missions of a Python file to members.",
        "run:run",
        (Argument("FILE", "a Python file with @mission functions"),),
        (
            Option("name", "the node's name (default: the file's)", "N"),
            Option(
                "mapper-port", "the port mapper's port (default: the demo's, else 4369)", "PORT"
            ),
            Option("alone", "a cluster of its own: no demo's; others come in by grants only"),
            Option("listen", "the address to listen on (default 127.0.0.1, this computer)", "IP"),
        ),
        (
            "drupelet run kitchen.py",
            "drupelet run kitchen.py --name kitchen2",
            "drupelet run light.py --name alice --alone --listen 0.0.0.0",
        ),
        "It joins the cluster of `drupelet demo` when that runs.\n"
        "Every function that the file marks with @mission is exported.",
        json=False,
    ),
    Verb(
        "lesson",
        "Run one of twelve lessons about processes, check it, and draw who said what.",
        "lesson:lesson",
        (
            Argument("N", "1 to 12 (default: list them)", False),
            Argument("FILE", "your own copy of its program: the exercises are checked too", False),
        ),
        (
            Option("copy", "copy the lesson's program into a folder, to edit it there", "DIR"),
            Option("simulated", "only in the simulator, not on real nodes"),
            Option("seed", "which simulated run (default 1)", "S"),
        ),
        (
            "drupelet lesson",
            "drupelet lesson 3",
            "drupelet lesson 3 --copy .",
            "drupelet lesson 3 lesson03_counter.py --simulated",
        ),
        "Real nodes are the cluster of this machine's node, such as that of `drupelet demo`;\n"
        "without one the lesson starts three and stops them. Its code is shipped to all of them.\n"
        "Exit code 0 when every check holds. daemon/docs/TUTORIAL.md tells the story.",
    ),
    Verb(
        "chan",
        "Serve processes to guests who know a password, as a conf lists them.",
        "chan:chan",
        (Argument("CONF", "a conf in lib_chan's shape, mode 0600 (docs/CHAN.md)"),),
        (),
        ("drupelet chan chan.conf",),
        "A line {port, 1234}. and, for each service,\n"
        '{service, nameServer, password, "SECRET", mfa, mod_name_server, start_me_up, notUsed}.\n'
        "It runs in the foreground, in a program of its own that needs no daemon.\n"
        "Exit code 78 for a conf that cannot be used.",
        json=False,
    ),
    Verb(
        "pair",
        "Make two nodes members of one cluster, or hand a grant over, by eight letters.",
        "pair:pair",
        (Argument("CODE", "what the other node shows (default: show one here)", False),),
        (
            Option("host", "where the other node is, when it is not found", "HOST:PORT"),
            Option("grant", "who has the code may call this mission, and is no member", "MISSION"),
            *(each for each in _TERMS if each.name not in ("to", "out", "text", "qr")),
        ),
        (
            "drupelet pair",
            "drupelet pair ABCD-EFGH",
            "drupelet pair ABCD-EFGH --host 192.168.1.7:4370",
            "drupelet pair --grant kitchen --only temp --rate 10/m",
        ),
        "Without CODE it shows a code and a QR code, and waits five minutes; one wrong try burns\n"
        "it. The other node takes this one's cookie, also after a restart, and keeps its own\n"
        "besides. CODE may also be what the QR code has. The other node is looked for on this\n"
        "network, and after two seconds at the relay, when both are at one (docs/RELAY.md);\n"
        "grants work through it at once, members need an address that answers. With --json there\n"
        "are two documents, the code and what became of it.",
    ),
    Verb(
        "completion",
        "Print the completion script of a shell.",
        "completion:completion",
        (Argument("SHELL", "bash, zsh or fish", choices=("bash", "zsh", "fish")),),
        examples=(
            "source <(drupelet completion bash)",
            "drupelet completion zsh > ~/.zfunc/_drupelet",
            "drupelet completion fish > ~/.config/fish/completions/drupelet.fish",
        ),
        json=False,
    ),
    Verb(
        "version",
        "Show the version of this program.",
        "nodes:version",
        examples=("drupelet version",),
    ),
    Verb(
        "help",
        "Show the verbs, or the help of one.",
        "main:help_verb",
        (Argument("VERB", "a verb", False),),
        json=False,
    ),
)

VERBS: Final = {verb.name: verb for verb in _VERBS}
