"""``completion bash|zsh|fish``: shell completion made from the table of verbs.

Completes verbs, options, the names of nodes, and of processes for `trace` (asked from the local
daemon when TAB is pressed, with `drupelet --json nodes` and `ps`; silently nothing when none runs).
"""

from __future__ import annotations

from drupelet.cli import output
from drupelet.cli.grammar import GENERAL_OPTIONS, Option, Request, Verb
from drupelet.cli.verbs import VERBS
from drupelet.errors import EXIT_DONE

_NODE_NAMES = (
    "drupelet --json nodes 2>/dev/null | tr '{' '\\n' | "
    'sed -n \'s/.*"name": "\\([^"]*\\)".*/\\1/p\''
)

_PROCESS_NAMES = (
    "drupelet --json ps 2>/dev/null | tr '{' '\\n' | sed -n "
    """'s/.*"pid": "<\\([^>]*\\)\\.[0-9]*\\.[0-9]*>".*"names": \\["\\([^"]*\\)".*/\\2@\\1/p'"""
)

_TYPED = '"${COMP_WORDS[0]}"'  # as typed, .venv/bin/drupelet for one, which is on no PATH


def completion(request: Request) -> int:
    """``completion SHELL``."""
    make = {"bash": bash, "zsh": zsh, "fish": fish}[request.argument(0)]
    output.write(make())
    return EXIT_DONE


def bash() -> str:
    """For ``source <(drupelet completion bash)``."""
    cases = [f'    {verb.name}) words="{" ".join(_words(verb))}" ;;' for verb in VERBS.values()]
    general = " ".join(_flags(GENERAL_OPTIONS))
    return f"""# bash completion for drupelet: source <(drupelet completion bash)
_drupelet_nodes() {{ {_NODE_NAMES.replace("drupelet", _TYPED, 1)}; }}
_drupelet_processes() {{ {_PROCESS_NAMES.replace("drupelet", _TYPED, 1)}; }}
_drupelet() {{
  local current="${{COMP_WORDS[COMP_CWORD]}}" verb="" place=0 index words=""
  COMPREPLY=()
  for ((index = 1; index < COMP_CWORD; index++)); do
    case "${{COMP_WORDS[index]}}" in
      {_valued()}) ((index++)) ;;
      -*) ;;
      *) if [ -z "$verb" ]; then verb="${{COMP_WORDS[index]}}"; else ((place++)); fi ;;
    esac
  done
  if [ -z "$verb" ]; then
    COMPREPLY=($(compgen -W "{" ".join(VERBS)} {general}" -- "$current"))
    return
  fi
  case "$verb" in
{chr(10).join(cases)}
  esac
  case "$verb:$place" in
    {_node_verbs(":0")}) words="$words $(_drupelet_nodes)" ;;
    trace:0) words="$words $(_drupelet_processes)" ;;
    run:0) COMPREPLY=($(compgen -f -X '!*.py' -- "$current")) ; return ;;
    accept:0|narrow:0) COMPREPLY=($(compgen -f -- "$current")) ; return ;;
  esac
  COMPREPLY=($(compgen -W "$words" -- "$current"))
}}
complete -o bashdefault -F _drupelet drupelet
"""


def zsh() -> str:
    """For a file ``_drupelet`` in ``$fpath``."""
    verbs = "\n".join(f"    '{verb.name}:{_quoted(verb.purpose)}'" for verb in VERBS.values())
    cases = "\n".join(
        f"    {verb.name}) compadd -- {' '.join(_words(verb))} ;;" for verb in VERBS.values()
    )
    return f"""#compdef drupelet
# zsh completion for drupelet: drupelet completion zsh > ~/.zfunc/_drupelet
_drupelet() {{
  local -a verbs nodes
  local verb="" place=0 index
  verbs=(
{verbs}
  )
  for ((index = 2; index < CURRENT; index++)); do
    case "${{words[index]}}" in
      {_valued()}) ((index++)) ;;
      -*) ;;
      *) if [[ -z "$verb" ]]; then verb="${{words[index]}}"; else ((place++)); fi ;;
    esac
  done
  if [[ -z "$verb" ]]; then
    _describe 'verb' verbs
    compadd -- {" ".join(_flags(GENERAL_OPTIONS))}
    return
  fi
  case "$verb" in
{cases}
  esac
  case "$verb:$place" in
    {_node_verbs(":0")}) nodes=($({_NODE_NAMES})); compadd -a nodes ;;
    trace:0) nodes=($({_PROCESS_NAMES})); compadd -a nodes ;;
    run:0) _files -g '*.py' ;;
    chan:0|accept:0|narrow:0) _files ;;
  esac
}}
_drupelet "$@"
"""


def fish() -> str:
    """For ``~/.config/fish/completions/drupelet.fish``."""
    lines = [
        "# fish completion for drupelet",
        "function __drupelet_nodes",
        f"    {_NODE_NAMES}",
        "end",
        "function __drupelet_processes",
        f"    {_PROCESS_NAMES}",
        "end",
        "complete -c drupelet -f",
    ]
    lines += [_fish_option("", option) for option in GENERAL_OPTIONS]
    for verb in VERBS.values():
        lines.append(
            f"complete -c drupelet -n __fish_use_subcommand -a {verb.name} "
            f"-d '{_quoted(verb.purpose)}'"
        )
        seen = f" -n '__fish_seen_subcommand_from {verb.name}'"
        lines += [_fish_option(seen, option) for option in verb.options]
        for argument in verb.arguments:
            if argument.choices:
                lines.append(f"complete -c drupelet{seen} -a '{' '.join(argument.choices)}'")
    nodes = _node_verbs("").replace("|", " ")
    lines.append(
        f"complete -c drupelet -n '__fish_seen_subcommand_from {nodes}' -a '(__drupelet_nodes)'"
    )
    processes = "-n '__fish_seen_subcommand_from trace' -a '(__drupelet_processes)'"
    lines.append(f"complete -c drupelet {processes}")
    lines.append("complete -c drupelet -F -n '__fish_seen_subcommand_from run chan accept narrow'")
    return "\n".join(lines) + "\n"


def _fish_option(condition: str, option: Option) -> str:
    short = f" -s {option.short}" if option.short else ""
    value = " -x" if option.value else ""
    flags = f"-l {option.name}{short}{value} -d '{_quoted(option.help)}'"
    return f"complete -c drupelet{condition} {flags}"


def _words(verb: Verb) -> list[str]:
    choices = [choice for argument in verb.arguments for choice in argument.choices]
    if verb.name == "help":
        choices = list(VERBS)
    if verb.name == "multicall":
        choices = ["all"]
    return [*choices, *_flags((*verb.options, *GENERAL_OPTIONS))]


def _flags(options: tuple[Option, ...]) -> list[str]:
    return [f"--{option.name}" for option in options]


def _valued() -> str:
    """Options whose next word is their value, not an argument."""
    options = [*GENERAL_OPTIONS, *(option for verb in VERBS.values() for option in verb.options)]
    flags = {f"--{option.name}" for option in options if option.value}
    return "|".join(sorted(flags | {f"-{one.short}" for one in options if one.value and one.short}))


def _node_verbs(suffix: str) -> str:
    named = [v.name for v in VERBS.values() if v.arguments and v.arguments[0].name[:4] == "NODE"]
    return "|".join(f"{name}{suffix}" for name in named)


def _quoted(text: str) -> str:
    return text.replace("'", "").replace(":", "\\:").replace("`", "")
