%% Two nodes: `gandalf` stays up, `bilbo` is killed. This node has neither's processes.
-module(oracle_nodes).
-export([cases/0, answers/0, traps/1, tell/2, fails/1, here/0, later/1, obeys/0, scope/0, serves/0,
         hands/1, replies/2, keeps/1, exits/2, large/2, machine/1, manager/1, supervisor/1]).
-import(oracle, [role/2, next/0, rest/0, nothing/0, quiet/0, caught/1, collect/1, died/1, down/1,
                 reason/1, watch/1, ask/2, is_gone/1]).

-define(DOWN_MS, 20000).

cases() ->
    Nodes = [start(Name) || Name <- [gandalf, bilbo]],
    persistent_term:put(nodes, maps:from_list(Nodes)),
    distribution() ++ sending() ++ ends() ++ servers() ++ rpcs()
        ++ groups() ++ requests() ++ [{several, fun cut/0}, {several, fun lost/0}].

%% Ruled by its standard input, so that it outlives its connection.
start(Name) ->
    {ok, Peer, Node} = peer:start(#{name => Name, host => "localhost", connection => standard_io,
        args => ["-pa", filename:dirname(code:which(?MODULE)), "-start_epmd", "false",
                 "-kernel", "inet_dist_use_interface", "{127,0,0,1}", "logger_level", "none"]}),
    true = net_kernel:connect_node(Node),
    {Name, {Peer, Node}}.

node_of(Name) -> #{Name := {_, Node}} = persistent_term:get(nodes), Node.
gandalf() -> node_of(gandalf).
nobody() -> nobody@localhost.

%% -- what runs over there

answers() ->
    receive
        {ask, From, node} -> From ! {answer, node, node()}, answers();
        {ask, From, Question} -> From ! {answer, Question}, answers();
        {exit, Reason} -> exit(Reason)
    end.

traps(To) ->
    process_flag(trap_exit, true), To ! {ready, self()}, forward(To).

forward(To) -> receive Message -> To ! Message, forward(To) end.

tell(To, Messages) -> [To ! Message || Message <- Messages].

obeys() -> receive {link, Pid, To} -> link(Pid), To ! linked, obeys(); {exit, Reason} -> exit(Reason) end.

%% Answers requests; `hands` gives them to another.
serves() ->
    receive
        {request, _, {exit, Reason}} -> exit(Reason);
        {request, Caller, Request} -> oracle_aliases:reply(Caller, Request), serves()
    end.

hands(To) -> receive {request, Caller, Request} -> To ! {asked, Caller, Request}, hands(To) end.

replies(Caller, Value) -> oracle_aliases:reply(Caller, Value).

%% Watches and is linked to `To`; keeps what it is told until it is asked for two of it.
keeps(To) ->
    process_flag(trap_exit, true), watch(To), link(To), To ! {ready, self()},
    [First, Second] = [receive {'DOWN', _, _, _, R1} -> {down, R1};
                               {'EXIT', _, R2} -> {exit, R2} end || _ <- [1, 2]],
    receive {told, From} -> From ! {told, lists:sort([First, Second]), rest()} end.

large(To, Sizes) -> [To ! binary:copy(<<"x">>, Size) || Size <- Sizes].

machine(Name) ->
    {ok, Pid} = gen_statem:start({local, Name}, oracle_machine, #{event => fun
        ({call, From}, push, off, D) -> {next_state, on, D, [{reply, From, on}]};
        ({call, From}, push, on, D) -> {next_state, off, D, [{reply, From, off}]};
        ({call, _}, never, _, _) -> keep_state_and_data;
        (cast, stop, _, _) -> {stop, {shutdown, done}} end}, []),
    Pid.

manager(Name) -> {ok, Pid} = gen_event:start({local, Name}), Pid.

%% Without its starter, which is a process of rpc.
supervisor(Name) ->
    Self = self(),
    spawn(fun() ->
        {ok, Pid} = supervisor:start_link({local, Name}, oracle_supervisor, {#{}, []}),
        Self ! {started, Pid}, receive never -> ok end
    end),
    receive {started, Pid} -> Pid end.

%% Sends an exit signal from there.
exits(To, Reason) -> exit(To, Reason).

here() -> node().

fails(throw) -> throw(thrown);
fails(error) -> error(bad);
fails(exit) -> exit(boom).

later(Ms) -> receive never -> ok after Ms -> late end.

there() -> role(spawn(gandalf(), ?MODULE, answers, []), child).

dead_there() ->
    Pid = spawn(gandalf(), erlang, self, []), Ref = watch(Pid), down(Ref), role(Pid, child).

named(Name) ->
    Pid = there(), true = rpc:call(gandalf(), erlang, register, [Name, Pid]), Pid.

%% -- cases

distribution() -> [
    {"node_is_alive", fun() -> is_alive() end},
    {"node_ping", fun() -> net_adm:ping(gandalf()) end},
    {"node_ping_oneself", fun() -> net_adm:ping(node()) end},
    {"node_ping_unknown", fun() -> net_adm:ping(nobody()) end},
    {"node_nodes", fun() -> lists:sort(nodes()) end},
    {"node_of_a_remote_pid", fun() -> node(there()) end},
    {"is_process_alive_of_a_remote_pid", fun() ->
        Pid = there(), caught(fun() -> is_process_alive(Pid) end)
    end},
    {"process_info_of_a_remote_pid", fun() ->
        Pid = there(), caught(fun() -> process_info(Pid) end)
    end},
    {"node_monitor_an_unknown_node", fun() ->
        monitor_node(nobody(), true), next()
    end},
    {"node_monitor_gives_true", fun() ->
        [monitor_node(gandalf(), Flag) || Flag <- [true, false]]
    end}
].

sending() -> [
    {"remote_spawn", fun() ->
        Pid = there(), Pid ! {ask, self(), node}, {answer, node, Where} = next(),
        {Where, node(Pid) =:= Where}
    end},
    {"remote_send_keeps_order", fun() ->
        spawn(gandalf(), ?MODULE, tell, [self(), [1, 2, 3, 4, 5]]), collect(5)
    end},
    {"remote_pid_comes_back_equal", fun() ->
        Self = self(), spawn(gandalf(), ?MODULE, tell, [Self, [{you, Self}]]),
        {you, Back} = next(), Back =:= Self
    end},
    {"remote_ref_comes_back_equal", fun() ->
        Ref = make_ref(), Pid = there(), ask(Pid, Ref) =:= Ref
    end},
    {"remote_large_messages_keep_their_order", fun() ->
        spawn(gandalf(), ?MODULE, large, [self(), [1, 1000000, 2, 100000, 3]]),
        [byte_size(Each) || Each <- collect(5)]
    end},
    {"spawn_on_ones_own_node", fun() ->
        spawn(node(), ?MODULE, tell, [self(), [hello]]), next()
    end},
    {"register_a_remote_pid", fun() ->
        Pid = there(), caught(fun() -> register(of_another, Pid) end)
    end},
    {"timer_to_a_remote_pid", fun() ->
        Pid = there(), caught(fun() -> erlang:send_after(0, Pid, {ask, self(), hello}), next() end)
    end},
    {"remote_send_to_the_dead", fun() -> dead_there() ! hello, still_here end},
    {"remote_send_to_a_name", fun() ->
        named(remote_name), {remote_name, gandalf()} ! {ask, self(), hello}, next()
    end},
    {"remote_send_to_an_unknown_name", fun() -> {no_such_name, gandalf()} ! hello, still_here end},
    {"send_to_a_name_on_an_unknown_node", fun() -> {no_such_name, nobody()} ! hello, still_here end},
    {"remote_whereis", fun() ->
        Pid = named(remote_whereis), rpc:call(gandalf(), erlang, whereis, [remote_whereis]) =:= Pid
    end},
    {"a_name_is_of_its_node", fun() -> named(of_its_node), whereis(of_its_node) end},
    {"remote_spawn_of_an_unknown_function", fun() ->
        {_, Ref} = spawn_monitor(gandalf(), ?MODULE, no_such_function, []), down(Ref)
    end},
    {"remote_spawn_of_a_function_in_a_variable", fun() ->
        Self = self(), spawn(gandalf(), fun() -> Self ! {from, node()} end), next()
    end},
    {"remote_spawn_on_an_unknown_node", fun() ->
        {_, Ref} = spawn_monitor(nobody(), ?MODULE, answers, []), down(Ref)
    end}
].

ends() -> [
    {"remote_spawn_monitor_normal", fun() ->
        {Pid, Ref} = spawn_monitor(gandalf(), ?MODULE, here, []), role(Pid, child),
        {'DOWN', Ref, process, Who, Reason} = next(), {Who, Reason}
    end},
    {"remote_spawn_monitor_exit", fun() ->
        {_, Ref} = spawn_monitor(gandalf(), ?MODULE, fails, [exit]), down(Ref)
    end},
    {"remote_spawn_link", fun() ->
        process_flag(trap_exit, true),
        role(spawn_link(gandalf(), ?MODULE, fails, [exit]), child), next()
    end},
    {"remote_link_takes_the_local", fun() ->
        Pid = there(),
        {_, Ref} = spawn_monitor(fun() -> link(Pid), Pid ! {exit, boom}, receive never -> ok end end),
        down(Ref)
    end},
    {"remote_link_takes_the_remote", fun() ->
        Pid = there(), Ref = watch(Pid), boom = died(fun() -> link(Pid), exit(boom) end), down(Ref)
    end},
    {"remote_link_from_there", fun() ->
        process_flag(trap_exit, true),
        Pid = role(spawn(gandalf(), ?MODULE, obeys, []), child), Pid ! {link, self(), self()},
        linked = next(), Pid ! {exit, boom}, next()
    end},
    {"remote_unlink", fun() ->
        process_flag(trap_exit, true),
        Pid = there(), Ref = watch(Pid), link(Pid), unlink(Pid), Pid ! {exit, boom},
        {down(Ref), quiet()}
    end},
    {"remote_link_to_the_dead", fun() ->
        process_flag(trap_exit, true), link(dead_there()), next()
    end},
    {"remote_link_to_the_dead_ends_the_caller", fun() ->
        Pid = dead_there(), died(fun() -> link(Pid), receive never -> ok end end)
    end},
    {"remote_exit_sent", fun() ->
        Pid = there(), Ref = watch(Pid), exit(Pid, boom), down(Ref)
    end},
    {"remote_exit_sent_kill", fun() ->
        Pid = there(), Ref = watch(Pid), exit(Pid, kill), down(Ref)
    end},
    {"remote_exit_sent_kill_cannot_be_trapped", fun() ->
        Pid = spawn(gandalf(), ?MODULE, traps, [self()]), {ready, Pid} = next(),
        Ref = watch(Pid), exit(Pid, kill), {down(Ref), quiet()}
    end},
    {"remote_kill_is_seen_as_killed", fun() ->
        process_flag(trap_exit, true),
        Pid = there(), link(Pid), exit(Pid, kill), next()
    end},
    {"remote_kill_takes_a_linked_process", fun() ->
        Pid = there(), died(fun() -> link(Pid), exit(Pid, kill), receive never -> ok end end)
    end},
    {"remote_link_twice_unlink_once", fun() ->
        process_flag(trap_exit, true),
        Pid = there(), Ref = watch(Pid), link(Pid), link(Pid), unlink(Pid), Pid ! {exit, boom},
        {down(Ref), quiet()}
    end},
    {"remote_unlink_then_link", fun() ->
        process_flag(trap_exit, true),
        Pid = there(), link(Pid), unlink(Pid), link(Pid), Pid ! {exit, boom}, {next(), quiet()}
    end},
    {"remote_demonitor_flush", fun() ->
        Pid = there(), First = watch(Pid), Second = watch(Pid), Pid ! {exit, boom}, down(Second),
        demonitor(First, [flush]), quiet()
    end},
    {"remote_name_is_taken_by_another", fun() ->
        Pid = named(remote_heir), Ref = watch(Pid), Pid ! {exit, boom}, down(Ref),
        New = named(remote_heir), ask({remote_heir, gandalf()}, hello), New =:= Pid
    end},
    {"remote_exit_sent_normal_is_ignored", fun() ->
        Pid = there(), exit(Pid, normal), ask(Pid, still_here)
    end},
    {"remote_exit_sent_is_trapped", fun() ->
        Pid = spawn(gandalf(), ?MODULE, traps, [self()]), {ready, Pid} = next(),
        exit(Pid, boom), next()
    end},
    {"remote_exit_sent_to_the_dead", fun() -> exit(dead_there(), boom) end},
    {"remote_signals_keep_their_order", fun() ->
        Pid = spawn(gandalf(), ?MODULE, traps, [self()]), {ready, Pid} = next(),
        Pid ! one, exit(Pid, boom), Pid ! two, collect(3)
    end},
    {"remote_monitor_the_dead", fun() -> Pid = dead_there(), watch(Pid), next() end},
    {"remote_monitor_several_refs", fun() ->
        Pid = there(), Refs = [watch(Pid), watch(Pid)], Pid ! {exit, boom},
        {[down(Ref) || Ref <- Refs], rest()}
    end},
    {"remote_demonitor", fun() ->
        Pid = there(), First = watch(Pid), Second = watch(Pid), demonitor(First),
        Pid ! {exit, boom}, {down(Second), quiet()}
    end},
    {"remote_monitor_by_name", fun() ->
        Pid = named(remote_watched), watch({remote_watched, gandalf()}),
        ask(Pid, sync), Pid ! {exit, boom}, next()
    end},
    {"remote_monitor_an_unknown_name", fun() -> watch({no_such_name, gandalf()}), next() end},
    {"monitor_a_name_on_an_unknown_node", fun() -> watch({no_such_name, nobody()}), next() end},
    {"remote_name_is_free_after_down", fun() ->
        Pid = named(remote_mortal), Ref = watch(Pid), Pid ! {exit, boom}, down(Ref),
        rpc:call(gandalf(), erlang, whereis, [remote_mortal])
    end}
].

server(Name) ->
    role(rpc:call(gandalf(), oracle_gen_server, plain_server, [Name]), server), {Name, gandalf()}.

servers() -> [
    {"remote_call", fun() ->
        {Name, Node} = server(rs_1), Pid = rpc:call(Node, erlang, whereis, [Name]),
        gen_server:call(Pid, {put, [new]})
    end},
    {"remote_call_by_name", fun() -> gen_server:call(server(rs_2), get) end},
    {"remote_cast", fun() ->
        To = server(rs_3), Gave = gen_server:cast(To, one),
        {Gave, gen_server:call(To, get)}
    end},
    {"remote_call_timeout", fun() ->
        To = server(rs_4), caught(fun() -> gen_server:call(To, never, 20) end)
    end},
    {"remote_server_exits_during_a_call", fun() ->
        To = server(rs_5), caught(fun() -> gen_server:call(To, exit) end)
    end},
    {"remote_call_to_an_unknown_name", fun() ->
        caught(fun() -> gen_server:call({no_such_name, gandalf()}, get) end)
    end},
    {"call_on_an_unknown_node", fun() ->
        caught(fun() -> gen_server:call({no_such_name, nobody()}, get) end)
    end},
    {"remote_statem", fun() ->
        rpc:call(gandalf(), ?MODULE, machine, [rm_1]), To = {rm_1, gandalf()},
        [gen_statem:call(To, push), gen_statem:call(To, push),
         caught(fun() -> gen_statem:call(To, never, 20) end)]
    end},
    {"remote_statem_ends", fun() ->
        Pid = rpc:call(gandalf(), ?MODULE, machine, [rm_2]), Ref = watch(Pid),
        gen_statem:cast({rm_2, gandalf()}, stop), down(Ref)
    end},
    {"remote_event_handler", fun() ->
        rpc:call(gandalf(), ?MODULE, manager, [re_1]), To = {re_1, gandalf()}, Self = self(),
        Gave = gen_event:add_handler(To, {oracle_handler, a}, #{
            event => fun(Event, S) -> Self ! {a, Event, node()}, {ok, S} end}),
        gen_event:notify(To, hello), {Gave, next(), length(gen_event:which_handlers(To))}
    end},
    {"remote_event_handler_goes_with_its_owner", fun() ->
        rpc:call(gandalf(), ?MODULE, manager, [re_2]), To = {re_2, gandalf()}, Self = self(),
        died(fun() -> gen_event:add_sup_handler(To, {oracle_handler, a}, #{
            terminate => fun(Why) -> Self ! {gone, Why} end}) end),
        {next(), gen_event:which_handlers(To)}
    end},
    {"remote_supervisor", fun() ->
        rpc:call(gandalf(), ?MODULE, supervisor, [rs_sup]), To = {rs_sup, gandalf()},
        {ok, Pid} = supervisor:start_child(To, #{id => a,
            start => {oracle_supervisor, child, [self(), a, false]}}),
        {started, a, Pid} = next(), Ref = watch(Pid), Pid ! {stop, boom}, boom = down(Ref),
        {started, a, Again} = next(),
        {node(Again), Again =:= Pid, supervisor:terminate_child(To, a), is_gone(Again)}
    end},
    {"remote_supervisor_of_a_server", fun() ->
        rpc:call(gandalf(), ?MODULE, supervisor, [rs_sup_2]), To = {rs_sup_2, gandalf()},
        {ok, Pid} = supervisor:start_child(To, #{id => a,
            start => {oracle_server, start_link, [#{call => fun(get, _, S) -> {reply, S, S} end}]}}),
        {gen_server:call(Pid, get), [Id || {Id, _, _, _} <- supervisor:which_children(To)]}
    end},
    {"cast_on_an_unknown_node", fun() -> gen_server:cast({no_such_name, nobody()}, hello) end}
].

rpcs() -> [
    {"rpc_value", fun() -> rpc:call(gandalf(), ?MODULE, here, []) end},
    {"rpc_undef", fun() -> failed(rpc:call(gandalf(), ?MODULE, no_such_function, [])) end},
    {"rpc_error", fun() -> failed(rpc:call(gandalf(), ?MODULE, fails, [error])) end},
    {"rpc_exit", fun() -> failed(rpc:call(gandalf(), ?MODULE, fails, [exit])) end},
    {"rpc_throw", fun() -> failed(rpc:call(gandalf(), ?MODULE, fails, [throw])) end},
    {"rpc_nodedown", fun() -> failed(rpc:call(nobody(), ?MODULE, here, [])) end},
    {"rpc_timeout", fun() -> failed(rpc:call(gandalf(), ?MODULE, later, [5000], 20)) end},
    {"rpc_to_oneself", fun() -> rpc:call(node(), ?MODULE, here, []) end},
    {"rpc_cast", fun() ->
        Gave = rpc:cast(gandalf(), ?MODULE, tell, [self(), [hello]]), {Gave, next()}
    end},
    {"rpc_multicall", fun() ->
        {Values, Bad} = rpc:multicall([node(), gandalf(), nobody()], ?MODULE, here, []),
        {Values, Bad}
    end},
    {"rpc_multicall_gives", fun() -> rpc:multicall([gandalf(), nobody()], ?MODULE, here, []) end},
    {"rpc_in_another_process_of_the_system", fun() ->
        rpc:call(gandalf(), os, getpid, []) =:= os:getpid()
    end}
].

failed({badrpc, {'EXIT', Reason}}) -> {badrpc, reason(Reason)};
failed(Other) -> Other.

groups() -> [
    {"pg_member_of_another_node", fun() ->
        pg:start(pg), rpc:call(gandalf(), ?MODULE, scope, []),
        Pid = there(), pg:join(remote_group, self()), {Ref, _} = pg:monitor(remote_group),
        ok = rpc:call(gandalf(), pg, join, [remote_group, Pid]),
        {Ref, join, remote_group, Joined} = next(),
        Members = pg:get_members(remote_group),
        {Joined, length(Members), lists:member(Pid, Members), pg:get_local_members(remote_group)}
    end},
    {"pg_join_of_a_remote_pid", fun() ->
        Pid = there(), {error, {Word, _}} = caught(fun() -> pg:join(of_another, Pid) end), Word
    end},
    {"pg_member_of_another_node_leaves", fun() ->
        Pid = there(), {Ref, _} = pg:monitor(remote_group_3),
        ok = rpc:call(gandalf(), pg, join, [remote_group_3, Pid]), {Ref, join, _, _} = next(),
        ok = rpc:call(gandalf(), pg, leave, [remote_group_3, Pid]), {Ref, What, Group, Left} = next(),
        {What, Group, Left, pg:get_members(remote_group_3), pg:which_groups() =:= []}
    end},
    {"pg_members_seen_from_another_node", fun() ->
        pg:join(remote_group_4, self()), Pid = there(), {Ref, _} = pg:monitor(remote_group_4),
        ok = rpc:call(gandalf(), pg, join, [remote_group_4, Pid]), {Ref, join, _, _} = next(),
        Seen = rpc:call(gandalf(), pg, get_members, [remote_group_4]),
        Local = rpc:call(gandalf(), pg, get_local_members, [remote_group_4]),
        pg:leave(remote_group_4, self()), {lists:sort(Seen) =:= lists:sort([self(), Pid]), Local}
    end},
    {"pg_member_of_another_node_dies", fun() ->
        Pid = there(), pg:monitor(remote_group_2),
        ok = rpc:call(gandalf(), pg, join, [remote_group_2, Pid]), next(), Pid ! {exit, boom},
        {_, leave, remote_group_2, Left} = next(), {Left, pg:get_members(remote_group_2)}
    end}
].

scope() ->
    Self = self(),
    spawn(fun() -> {ok, _} = pg:start(pg), Self ! started, receive never -> ok end end),
    receive started -> ok end.

requests() -> [
    {"remote_ask", fun() -> oracle_aliases:ask(spawn(gandalf(), ?MODULE, serves, []), [hello, 1]) end},
    {"remote_ask_a_late_reply_is_dropped", fun() ->
        To = spawn(gandalf(), ?MODULE, hands, [self()]),
        Outcome = caught(fun() -> oracle_aliases:ask(To, hello, 20) end),
        {asked, Caller, hello} = next(),
        Ref = watch(spawn(gandalf(), ?MODULE, replies, [Caller, late])), down(Ref),
        {Outcome, quiet()}
    end},
    {"remote_ask_reply_by_a_process_here", fun() ->
        Self = self(), To = spawn(gandalf(), ?MODULE, hands, [self()]),
        spawn(fun() -> Self ! {outcome, oracle_aliases:ask(To, hello)} end),
        {asked, Caller, hello} = next(), oracle_aliases:reply(Caller, from_here), next()
    end},
    {"remote_ask_reply_by_another_there", fun() ->
        Self = self(), To = spawn(gandalf(), ?MODULE, hands, [self()]),
        spawn(fun() -> Self ! {outcome, oracle_aliases:ask(To, hello)} end),
        {asked, Caller, hello} = next(), spawn(gandalf(), ?MODULE, replies, [Caller, there]), next()
    end},
    {"remote_ask_the_dead", fun() ->
        Pid = dead_there(), caught(fun() -> oracle_aliases:ask(Pid, hello) end)
    end},
    {"remote_ask_the_receiver_ends", fun() ->
        To = spawn(gandalf(), ?MODULE, serves, []),
        {caught(fun() -> oracle_aliases:ask(To, {exit, boom}) end), quiet()}
    end},
    {"remote_exit_sent_from_there_takes", fun() ->
        Gandalf = gandalf(),
        died(fun() -> spawn(Gandalf, ?MODULE, exits, [self(), boom]), receive never -> ok end end)
    end},
    {"remote_exit_sent_from_there_is_trapped", fun() ->
        process_flag(trap_exit, true),
        spawn(gandalf(), ?MODULE, exits, [self(), boom]), {'EXIT', _, Reason} = next(), Reason
    end},
    {"remote_exit_sent_from_there_kill", fun() ->
        Gandalf = gandalf(),
        died(fun() ->
            process_flag(trap_exit, true),
            spawn(Gandalf, ?MODULE, exits, [self(), kill]), receive never -> ok end
        end)
    end}
].

%% -- a node whose connection is closed, and which comes back

cut() ->
    Gandalf = gandalf(), Self = self(),
    process_flag(trap_exit, true),
    Linked = role(spawn_link(Gandalf, ?MODULE, answers, []), linked),
    Watched = role(there(), watched),
    Keeping = role(spawn(Gandalf, ?MODULE, keeps, [Self]), keeping), {ready, Keeping} = next(),
    Ref = watch(Watched), monitor_node(Gandalf, true),
    [ask(Pid, sync) || Pid <- [Linked, Watched]],
    {Group, _} = pg:monitor(cut_group), ok = rpc:call(Gandalf, pg, join, [cut_group, Watched]),
    {Group, join, cut_group, _} = next(),
    Unknown = erlang:disconnect_node(nobody()),
    Gave = erlang:disconnect_node(Gandalf),
    Nodedown = receive {nodedown, Gandalf} -> nodedown after ?DOWN_MS -> silence end,
    Exits = [receive {'EXIT', Pid, Why} -> Why after ?DOWN_MS -> silence end || Pid <- [Linked, Keeping]],
    Down = down(Ref), {Group, leave, cut_group, Left} = next(), pg:demonitor(Group),
    Nothing = quiet(),
    Back = back(Gandalf),
    Keeping ! {told, Self},
    Told = receive {told, Both, More} -> {Both, More} after ?DOWN_MS -> silence end,
    [{"cut_node_unknown", Unknown},
     {"cut_node_gives", Gave},
     {"cut_node_nodedown", Nodedown},
     {"cut_node_exit_of_each_link", Exits},
     {"cut_node_down", Down},
     {"cut_node_leaves_the_groups", Left},
     {"cut_node_tells_nothing_twice", Nothing},
     {"cut_node_comes_back", Back},
     {"cut_node_tells_the_other_side", Told},
     {"cut_node_takes_who_was_linked", is_gone(Linked)},
     {"cut_node_spares_who_was_not", ask(Watched, still_here)},
     {"cut_node_is_in_the_groups_again", begin
         {MoreRef, _} = pg:monitor(cut_group),
         case pg:get_members(cut_group) of [] -> next(); _ -> ok end,
         pg:demonitor(MoreRef), pg:get_members(cut_group) end},
     {"cut_node_can_be_watched_and_linked_again", begin
         Again = watch(Watched), link(Watched), ask(Watched, sync), Watched ! {exit, boom},
         {down(Again), next()} end},
     {"cut_node_nothing_is_left", quiet()}].

back(Node) ->
    case net_adm:ping(Node) of pong -> pong; pang -> back(Node) end.

%% -- a node that is lost

lost() ->
    Bilbo = node_of(bilbo), Self = self(),
    process_flag(trap_exit, true),
    Linked = role(spawn_link(Bilbo, ?MODULE, answers, []), linked),
    Watched = role(spawn(Bilbo, ?MODULE, answers, []), watched),
    Named = role(spawn(Bilbo, ?MODULE, answers, []), named),
    rpc:call(Bilbo, erlang, register, [on_bilbo, Named]),
    Refs = [watch(Watched), watch(Watched)],
    ByName = watch({on_bilbo, Bilbo}),
    [ask(Pid, sync) || Pid <- [Linked, Watched, Named]],
    Caller = calling(fun() -> gen_server:call({on_bilbo, Bilbo}, never) end),
    Remote = calling(fun() -> failed(rpc:call(Bilbo, ?MODULE, later, [60000])) end),
    Untrapping = spawn(fun() -> link(Watched), Self ! linked, receive never -> ok end end),
    receive linked -> ok end, UntrappingRef = watch(Untrapping),
    monitor_node(Bilbo, true), monitor_node(Bilbo, true),
    Flagged = spawn(fun() -> monitor_node(Bilbo, true), monitor_node(Bilbo, false),
                             Self ! flagged, receive finish -> Self ! {waited, rest()} end end),
    receive flagged -> ok end,
    os:cmd("kill -9 " ++ rpc:call(Bilbo, os, getpid, [])),
    Nodedowns = [receive {nodedown, Bilbo} -> nodedown after ?DOWN_MS -> silence end || _ <- [1, 2]],
    Exit = receive {'EXIT', Linked, Why} -> Why after ?DOWN_MS -> silence end,
    Downs = [down(Ref) || Ref <- Refs],
    Flagged ! finish,
    Waited = receive {waited, Rest} -> Rest after ?DOWN_MS -> silence end,
    [{"lost_node_nodedown_for_each_monitor_node", Nodedowns},
     {"lost_node_takes_back_monitor_node", Waited},
     {"lost_node_exit_of_a_link", Exit},
     {"lost_node_down_of_each_monitor", Downs},
     {"lost_node_down_by_name", receive {'DOWN', ByName, _, Object, Reason} -> {Object, Reason} end},
     {"lost_node_takes_who_does_not_trap", down(UntrappingRef)},
     {"lost_node_during_a_call", outcome(Caller)},
     {"lost_node_during_an_rpc", outcome(Remote)},
     {"lost_node_tells_nothing_twice", quiet()},
     {"lost_node_is_not_in_nodes", lists:member(Bilbo, nodes())},
     {"lost_node_ping", net_adm:ping(Bilbo)},
     {"lost_node_send", begin Watched ! hello, still_here end},
     {"lost_node_exit_sent", exit(Watched, boom)},
     {"lost_node_monitor", begin watch(Watched), next() end},
     {"lost_node_link", begin link(Linked), next() end},
     {"lost_node_link_not_trapped", died(fun() -> link(Linked), receive never -> ok end end)},
     {"lost_node_call", caught(fun() -> gen_server:call(Watched, get) end)},
     {"lost_node_cast", gen_server:cast(Watched, hello)},
     {"lost_node_rpc", failed(rpc:call(Bilbo, ?MODULE, here, []))},
     {"lost_node_monitor_node", begin monitor_node(Bilbo, true), next() end}].

calling(Fun) ->
    Self = self(),
    spawn(fun() -> Self ! {outcome, self(), caught(Fun)} end).

outcome(Pid) -> receive {outcome, Pid, Outcome} -> Outcome after ?DOWN_MS -> silence end.
