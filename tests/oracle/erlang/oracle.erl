%% Runs the cases of the modules oracle_*: each in a process of its own, one after the other, and
%% prints one line per case: its name, " => " and what it gave, as a Python literal.
%%
%% The normal form: atoms and binaries are strings, but true, false and undefined are True, False
%% and None, the node's own name is 'here'; tuples, lists, maps and numbers are themselves; a pid is
%% the role that role/2 gave it; a reference is 'ref'.
-module(oracle).
-export([main/1, role/2, dead/0, next/0, next/1, rest/0, nothing/0, quiet/0, quiet/1, down/1, died/1,
         reason/1, ask/2, answering/0, caught/1, watch/1, collect/1, is_gone/1]).

%% A busy machine may hold a process back for tens of milliseconds. Nothing here depends on who is
%% quicker by less than ?SOON_MS (oracle.hrl); what must come may take long.
-define(CASE_MS, 40000).  % what takes longer hangs
-define(NEXT_MS, 20000).  % something must come
-define(QUIET_MS, 30).    % nothing must come, and nothing is under way

main(Modules) ->
    logger:set_primary_config(level, none),
    ets:new(roles, [named_table, public]),
    [one(Name, Fun) || Module <- Modules, {Name, Fun} <- Module:cases()],
    io:format("done~n"),
    halt().

%% `several` cases that share a scene are one fun that gives [{Name, Value}].
one(several, Fun) ->
    role(self(), self),
    [print(Name, Value) || {Name, Value} <- Fun()];
one(Name, Fun) ->
    ets:delete_all_objects(roles),
    {Pid, Ref} = spawn_monitor(fun() ->
        role(self(), self),
        exit({value, Fun()})
    end),
    Outcome = receive
        {'DOWN', Ref, process, Pid, {value, Value}} -> Value;
        {'DOWN', Ref, process, Pid, Reason} -> {crash, list_to_binary(io_lib:format("~0p", [Reason]))}
    after ?CASE_MS -> exit(Pid, kill), hangs
    end,
    print(Name, Outcome).

print(Name, Outcome) -> io:format("~s => ~s~n", [Name, literal(Outcome)]).

%% -- the normal form

literal(true) -> "True";
literal(false) -> "False";
literal(undefined) -> "None";
literal(Atom) when Atom =:= node() -> "'here'";
literal(Atom) when is_atom(Atom) -> quoted(unicode:characters_to_binary(bare(atom_to_list(Atom))));
literal(Binary) when is_binary(Binary) -> quoted(Binary);
literal(Number) when is_integer(Number) -> integer_to_list(Number);
literal(Number) when is_float(Number) -> io_lib:format("~p", [Number]);
literal(Pid) when is_pid(Pid) ->
    case ets:lookup(roles, Pid) of
        [{Pid, Role}] -> literal(Role);
        [] -> "'pid'"
    end;
literal(Ref) when is_reference(Ref) -> "'ref'";
literal(Tuple) when is_tuple(Tuple) ->
    ["(", [[literal(Each), ","] || Each <- tuple_to_list(Tuple)], ")"];
literal(List) when is_list(List) ->
    ["[", [[literal(Each), ","] || Each <- List], "]"];
literal(Map) when is_map(Map) ->
    ["{", [[literal(Key), ":", literal(Value), ","] || {Key, Value} <- lists:sort(maps:to_list(Map))],
     "}"];
literal(Fun) when is_function(Fun) -> "'fun'".

quoted(Binary) ->
    Slashed = binary:replace(Binary, <<"\\">>, <<"\\\\">>, [global]),
    Ticked = binary:replace(Slashed, <<"'">>, <<"\\'">>, [global]),
    ["'", binary:replace(Ticked, <<"\n">>, <<"\\n">>, [global]), "'"].

%% The name of a node without its host.
bare(Text) -> hd(string:split(Text, "@")).

role(Pid, Role) ->
    ets:insert(roles, {Pid, Role}),
    Pid.

%% -- helpers of cases

%% A process that has ended.
dead() ->
    {Pid, Ref} = spawn_monitor(fun() -> ok end),
    receive {'DOWN', Ref, process, Pid, _} -> Pid end.

next() -> receive Message -> Message after ?NEXT_MS -> silence end.

%% The next message that the fun takes.
next(Wanted) ->
    receive Message when Message =:= Wanted -> Message after ?NEXT_MS -> silence end.

%% All that waits now.
rest() -> receive Message -> [Message | rest()] after 0 -> [] end.

nothing() -> receive Message -> {unexpected, Message} after 0 -> nothing end.

%% That nothing comes for a while.
quiet() -> quiet(?QUIET_MS).
quiet(Ms) -> receive Message -> {unexpected, Message} after Ms -> nothing end.

%% The reason for which a monitored process ends.
down(Ref) -> receive {'DOWN', Ref, process, _, Reason} -> reason(Reason) after ?NEXT_MS -> alive end.

%% The reason for which a process that is started with this fun ends.
died(Fun) ->
    {_, Ref} = spawn_monitor(Fun),
    down(Ref).

watch(Pid) -> erlang:monitor(process, Pid).

%% Reasons without stack traces.
reason({Reason, [{Module, _, _, _} | _]}) when is_atom(Module) -> reason(Reason);
reason({Reason, Stack}) when Stack =:= [], is_tuple(Reason) -> reason(Reason);
reason({{nodedown, _}, {_, call, _}}) -> {nodedown, in_call};
reason({Reason, {gen_server, call, _}}) -> {reason(Reason), in_call};
reason({Reason, {gen_server, stop, _}}) -> {reason(Reason), in_stop};
reason({Reason, {gen_statem, call, _}}) -> {reason(Reason), in_call};
reason({Reason, {gen_event, _, _}}) -> {reason(Reason), in_call};
reason({Reason, {sys, _, _}}) -> {reason(Reason), in_stop};
reason(Reason) -> Reason.

%% What a fun gives, or what it raises.
caught(Fun) ->
    try Fun()
    catch
        throw:Value -> {throw, Value};
        error:Reason -> {error, reason(Reason)};
        exit:Reason -> {exit, reason(Reason)}
    end.

%% A process that answers questions: {ask, From, Question} is answered by the same.
answering() ->
    spawn(fun answers/0).

answers() ->
    receive
        {ask, From, Question} -> From ! {answer, Question}, answers();
        {run, Fun} -> Fun(), answers()
    end.

ask(To, Question) ->
    To ! {ask, self(), Question},
    receive {answer, Question} -> Question after ?NEXT_MS -> silence end.

%% So many messages.
collect(Count) -> [next() || _ <- lists:seq(1, Count)].

is_gone(Pid) ->
    Ref = erlang:monitor(process, Pid),
    receive {'DOWN', Ref, process, _, _} -> true after ?NEXT_MS -> false end.
