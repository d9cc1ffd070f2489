%% Erlang's side of bench_processes.py: the same work, one JSON line per figure.
-module(processes).
-export([local/1, remote/1, idle/0, echo/0, nothing/0, server/0]).

out(Name, Value) -> io:format("{\"name\": \"~s\", \"value\": ~w}~n", [Name, Value]).

us(Count, Fun) ->
    T0 = erlang:monotonic_time(nanosecond),
    repeat(Count, Fun),
    (erlang:monotonic_time(nanosecond) - T0) / Count / 1000.

repeat(0, _) -> ok;
repeat(N, Fun) -> Fun(), repeat(N - 1, Fun).

idle() -> receive stop -> ok end.
nothing() -> ok.
echo() -> receive {From, X} -> From ! {self(), X}, echo() end.

round_trip(Pid) -> Pid ! {self(), 1}, receive {Pid, 1} -> ok end.

spawned(Node) ->
    {_, Ref} = spawn_monitor(Node, ?MODULE, nothing, []),
    receive {'DOWN', Ref, process, _, normal} -> ok end.

%% a gen_server:call is what `ask` and GenServer.call are compared with
call(Pid) ->
    Ref = erlang:monitor(process, Pid),
    Pid ! {self(), Ref},
    receive {Pid, Ref} -> erlang:demonitor(Ref, [flush]) end.

rss() ->
    {ok, Text} = file:read_file("/proc/self/statm"),
    [_, Pages | _] = binary:split(Text, <<" ">>, [global]),
    binary_to_integer(Pages) * 4096.

local([CountS]) ->
    Count = list_to_integer(CountS),
    Pid = spawn(fun echo/0),
    round_trip(Pid),
    out("request_us", us(Count, fun() -> round_trip(Pid) end)),
    out("ask_us", us(Count, fun() -> call(Pid) end)),
    out("spawn_us", us(Count, fun() -> spawned(node()) end)),
    Before = rss(),
    [spawn(fun idle/0) || _ <- lists:seq(1, 20000)],
    timer:sleep(300),
    out("idle_bytes", (rss() - Before) / 20000),
    out("rss_20000_mb", rss() / 1.0e6),
    Flooded = spawn(fun() -> receive never -> ok end end),
    Again = rss(),
    repeat(1000000, fun() -> Flooded ! {m, 1} end),
    timer:sleep(300),
    out("flood_mb", (rss() - Again) / 1.0e6),
    halt().

server() -> io:format("READY~n").

remote([NodeS, CountS]) ->
    Node = list_to_atom(NodeS),
    Count = list_to_integer(CountS),
    pong = connect(Node, 50),
    Pid = spawn(Node, ?MODULE, echo, []),
    round_trip(Pid),
    spawned(Node),
    out("remote_request_us", us(Count, fun() -> round_trip(Pid) end)),
    out("remote_spawn_us", us(Count, fun() -> spawned(Node) end)),
    halt().

connect(_, 0) -> pang;
connect(Node, N) ->
    case net_adm:ping(Node) of
        pong -> pong;
        pang -> timer:sleep(100), connect(Node, N - 1)
    end.
