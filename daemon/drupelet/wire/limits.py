"""Every maximum that a peer can meet, in one place, each with its reason.

Rule: every buffer, queue, table, loop over a peer's data and wait has a maximum, here or in the
configuration, and a test at the maximum and one above.
"""

from __future__ import annotations

from typing import Final

# -- records and frames
RECORD_BYTES_MAX: Final = 65_535  # a Noise message (revision 34, section 3), ciphertext with tag
RECORD_TAG_BYTES: Final = 16
FRAME_BYTES_MAX: Final = 65_519  # a frame with its header fits one record: 65,535 - 16
FRAGMENT_BYTES_MAX: Final = 32_768  # a body's piece: 2 to a record, 3 ms on a 100 Mbit/s wire
BODY_BYTES_MAX: Final = 16 * 1024 * 1024  # one call's arguments or value, put together
REASSEMBLY_BYTES_MAX: Final = 64 * 1024 * 1024  # unfinished bodies of one link, all together
BULK_ROOM_BYTES: Final = 1024 * 1024  # DATA in line on one channel before its own senders wait
BULK_BYTES_MAX: Final = 16 * 1024 * 1024  # forwarded DATA in line; beyond it: overloaded
HELD_BYTES_MAX: Final = 64 * 1024 * 1024  # all that waits for a peer; beyond it the peer is cut off
STREAM_CREDIT_BYTES: Final = 262_144  # first window of a stream: 20 ms at 100 Mbit/s
OUT_BYTES_MAX: Final = 4 * 1024 * 1024  # small frames waiting on one link; beyond it: overloaded
CALLS_PER_LINK_MAX: Final = 65_536  # unanswered calls in one direction of a link
STREAMS_PER_LINK_MAX: Final = 256
MANY_CALLS_MAX: Final = 256  # calls in one CALL frame: they hold the callee's loop for ~1 ms
TARGET_BYTES_MAX: Final = 255  # "node/mission/function"; its length is one byte on the wire

# -- values (the codec)
CONTROL_BYTES_MAX: Final = 65_536  # one decoded CBOR item of a control frame
CONTROL_ITEMS_MAX: Final = 4_096  # 1 MiB of a0 becomes 74 MiB and 0.3 s of frozen loop: count items
VALUE_DEPTH_MAX: Final = 16
VALUE_ITEMS_MAX: Final = 262_144  # items in a call's arguments or value; ~20 ms to decode
MAP_INT_KEYS_MAX: Final = 8_192  # integers hash to themselves: chosen ones make a dict quadratic

# -- names
NAME_CHARS_MAX: Final = 63  # one DNS label: node, mission and function names
HOST_CHARS_MAX: Final = 253

# -- handshake and strangers
HANDSHAKE_FIRST_BYTES_MAX: Final = 256  # a stranger's first frame
HANDSHAKE_BYTES_MAX: Final = 2_048  # the second and third
HANDSHAKE_S: Final = 5.0  # from accept to finished
UNAUTHENTICATED_MAX: Final = 32
UNAUTHENTICATED_PER_ADDRESS_MAX: Final = 8
PENALTY_ADDRESSES_MAX: Final = 1_024  # table of misbehaving addresses; the oldest goes first

# -- keepalive
KEEPALIVE_S: Final = 1.0
KEEPALIVE_MISSED_MAX: Final = 4  # dead after 4 missed: NodeDown within 5 s of silence

# -- discovery
CANDIDATES_PER_WINDOW_MAX: Final = 64  # what the discovery process hands over ...
CANDIDATE_WINDOW_S: Final = 10.0  # ... in this span
CANDIDATES_PER_ORIGIN_MAX: Final = 16  # of them from one sender: 3 nodes with 5 addresses each
SERVICE_ADDRESSES_MAX: Final = 8  # of one advertised service: 2 interfaces, v4 and 3 v6 each
DISCOVERY_INTERFACES_MAX: Final = 16  # that the discovery process speaks on; a Pi has two
CANDIDATES_MAX: Final = 256  # what the daemon keeps
GOSSIP_NODES_MAX: Final = 64

# -- local channels
WORKER_CALLS_MAX: Final = 4_096  # calls at one mission worker: unanswered, or still ending
LEASES_MAX: Final = 1_024  # strangers' calls of which something runs in one worker
SETTLES_MAX: Final = 256  # questions whether all has ended that wait in one worker
MEMBERS_KEPT_MAX: Final = 256  # names and keys on disk: four times a cluster, for cards replaced
CLIENTS_MAX: Final = 128  # connections on the Unix socket

# -- shipped code (wire/bundles.py)
BUNDLE_MODULES_MAX: Final = 64  # of one mission; a mission is no package index
BUNDLE_MODULE_BYTES_MAX: Final = 262_144  # one source file: some 6,000 lines
BUNDLE_SOURCE_BYTES_MAX: Final = 1024 * 1024  # all of them: 0.1 s on a 100 Mbit/s wire
BUNDLE_BYTES_MAX: Final = BUNDLE_SOURCE_BYTES_MAX + 16_384  # with 64 names of 63 characters, twice
SHIPPED_MISSIONS_MAX: Final = 64  # that one node keeps shipped code of; each is a file and a worker

# -- grants (wire/grants.py, core/grants.py)
GRANT_LINKS_MAX: Final = 4  # owner, friend, friend's friend, and one more
GRANT_FUNCTIONS_MAX: Final = 64  # named in one link; a mission with more is several
GRANT_BYTES_MAX: Final = 8_192  # 64 names of 20 letters in each of four links
REQUEST_BYTES_MAX: Final = 262_144  # signed and sealed, through a relay: wire/requests.py
REQUEST_TIMEOUT_MS_MAX: Final = 86_400_000  # a day: a mailbox at a relay
REPLY_VALUE_BYTES_MAX: Final = REQUEST_BYTES_MAX - 1_024  # with its envelope in one message
REPLIES_KEPT_BYTES_MAX: Final = 4 * 1024 * 1024  # for replays; the oldest goes first
ONCE_KEYS_MAX: Final = 16_384  # idempotency keys of one node that count, for a week: 8 MB
ONCE_KEYS_PER_CALLER_MAX: Final = 4_096  # of them of one holder: 24 an hour, all week
ONCE_BYTES_MAX: Final = 16 * 1024 * 1024  # with what those calls gave
IDEMPOTENCY_KEY_BYTES_MAX: Final = 1_024  # as a program says one: a URL; 16 go on the wire
DONE_KEYS_MAX: Final = 256  # in one message that they are never sent again
DONE_WAITING_MAX: Final = 4_096  # keys of which that is not told yet
OUTBOX_CASTS_MAX: Final = 1_024  # of one node, that wait: as many as a mailbox has
OUTBOX_BYTES_MAX: Final = 16 * 1024 * 1024  # with their arguments
JOURNAL_BYTES_MAX: Final = 64 * 1024 * 1024  # a file of records: twice what counts, and a MiB
JOURNAL_RECORD_BYTES_MAX: Final = BODY_BYTES_MAX + 65_536  # one of them: a value and its names
RELAY_CALLS_MAX: Final = 1_024  # of one node, through a relay, that have no answer yet
REPLAY_IDS_MAX: Final = 65_536  # requests in two minutes: 500 a second; 100 bytes each
PROXIES_PER_KEY_MAX: Final = 1_024  # proxy pids that one stranger holds; 600 bytes each
PROXIES_MAX: Final = 16_384  # given by one node, and as many held: 15 MB for both
PROXY_MESSAGES_MAX: Final = 1_000  # through one of them
PROXY_MESSAGE_BYTES_MAX: Final = 16_384  # in one CAST, also when its pids have become proxies
PROXY_WATCHERS_MAX: Final = 1_024  # processes here that watch one
WORD_BYTES_MAX: Final = FRAGMENT_BYTES_MAX + 512  # a CAST's body through a relay, and its seals
WORD_PEERS_MAX: Final = 1_024  # nodes with which one exchanges such; 200 bytes each
WORDS_WAITING_MAX: Final = 256  # for the relay: 5 s at its rate; more are dropped, as on a link
GRANTS_ISSUED_MAX: Final = 4_096  # by one node; 200 bytes each, on disk too
GRANT_ADDRESSES_MAX: Final = 8  # of one node, in a grant's file
ADVERTISED_MAX: Final = 4  # of them, by configuration
GRANT_FILE_CHARS_MAX: Final = 2 * GRANT_BYTES_MAX + 8_192  # with what people wrote above it
GRANTS_FILE_BYTES_MAX: Final = 16 * 1024 * 1024  # those, revocations, and what others gave
GRANTS_ACCEPTED_MAX: Final = 256  # that others gave to one node
STRANGERS_MAX: Final = 256  # links of holders of grants; 10 kB each
STRANGERS_PER_KEY_MAX: Final = 4  # of them with one key: a phone that changes networks
GRANTS_NARROWED_MAX: Final = 256  # links under one grant whose use is counted
GRANTS_REVOKED_MAX: Final = 65_536  # ids and keys remembered; 100 bytes each
HOLDINGS_MAX: Final = 32_768  # all that lives under grants: 16,384 proxies, and calls; 300 bytes
GRANT_CALLERS_MAX: Final = 4_096  # callers whose rate is counted; the longest rested goes first

# -- pairing (wire/pairing.py, core/pairing.py)
PAIR_S: Final = 300.0  # a code is good for so long: a walk to the other machine and back
PAIR_CONFIRM_S: Final = 10.0  # after the code was proved: a disk and a round trip
PAIR_RUNS_MAX: Final = 8  # links that try one code at the same time; the oldest goes first
PAIR_MESSAGE_BYTES_MAX: Final = GRANT_FILE_CHARS_MAX + 512  # with a grant's file
PAIR_COOKIE_CHARS_MAX: Final = 256  # one that a person chose: store/cookie.py
PAIR_PLATES: Final = 4_096  # 12 bits of a code that tell where it is shown; 24.7 stay secret
PAIR_RELAYED_BYTES_MAX: Final = PAIR_MESSAGE_BYTES_MAX + 4_096  # signed, with addresses
PAIR_SPENT_MAX: Final = 64  # codes that were tried from this node and did not hold
INVITATION_CHARS_MAX: Final = 1_024  # 8 addresses; a QR code that a phone still reads

# -- the relay (wire/announcements.py, wire/relay.py, core/relay.py, relay/)
RELAY_ACCOUNTS_MAX: Final = 10_000  # of one relay; 300 bytes each
RELAY_VERSION_TOP: Final = 2**48  # changes of one account; counting stops there
RELAY_INVITES_MAX: Final = 1_024
RELAY_PENDING_MAX: Final = 1_000  # accounts that wait for the owner; strangers make them
RELAY_URL_CHARS_MAX: Final = 272  # https://, a host, a port
RELAY_EMAIL_CHARS_MAX: Final = 254  # RFC 5321 with erratum 1690
RELAY_MISSIONS_MAX: Final = 64  # in one announcement
RELAY_HOLDERS_MAX: Final = 1_024  # digests in one announcement: 16 KB, kept for each node
RELAY_OFFERS_BYTES_MAX: Final = 32_768  # those and 64 names
RELAY_MESSAGE_BYTES_MAX: Final = REQUEST_BYTES_MAX + 1_024  # a sealed request or reply
RELAY_FRAME_BYTES_MAX: Final = RELAY_MESSAGE_BYTES_MAX + 1_024  # what a node and a relay exchange
MAILBOX_MESSAGES_MAX: Final = 1_000  # that wait for one account; half of it from one sender
MAILBOX_BYTES_MAX: Final = 1_048_576  # the same in bytes
MAILBOX_KEPT_S: Final = 7 * 86_400  # the longest that a message waits
RELAY_WINDOW_MESSAGES: Final = 64  # delivered to one connection and not yet acknowledged
RELAY_URLS_MAX: Final = 4  # relays of one node, in its configuration and its grants' files
RELAY_ASKED_MAX: Final = 64  # questions of one node that wait for the relay's answer
RELAY_UNSENT_BYTES_MAX: Final = 512 * 1024  # of them not written yet; beyond it none is begun
RELAY_INBOX_BYTES_MAX: Final = 2 * MAILBOX_BYTES_MAX  # delivered to a node and not yet taken
RELAY_CATALOGUE_MAX: Final = 1_024  # entries that a node shows of a relay's catalogue
RELAY_LINKS_MAX: Final = 4_096  # connections at once
RELAY_CONNECTIONS_MAX: Final = 5_120  # those, and some that are not logged in or poll
RELAY_CONNECTIONS_PER_ADDRESS_MAX: Final = 256  # unless its configuration says more
RELAY_SENDS_PER_SECOND: Final = 50  # of one account, unless its configuration says else
RELAY_SENDS_PER_SECOND_MAX: Final = 10_000  # that it may say
RELAY_LINKS_PER_ACCOUNT_MAX: Final = 4  # a node that changes networks; the oldest goes first
RELAY_WRITES_MAX: Final = 1_024  # that wait for the disk; beyond it: busy
RELAY_PLATES_MAX: Final = 256  # codes that are shown at one time, at one relay; one an account
RELAY_NONCES_MAX: Final = 4_096  # given out for HTTP logins and not yet used; the oldest goes first
RELAY_PEERS_MAX: Final = 4  # relays that one keeps in step with
RELAY_PEER_BATCH_MESSAGES: Final = 256  # said to one at once; a request has at least one message
RELAY_PEER_BATCH_BYTES_MAX: Final = 2 * RELAY_FRAME_BYTES_MAX
RELAY_PEER_QUESTIONS_MAX: Final = 64  # invites that a peer is asked about; beyond it: busy
RELAY_SESSIONS_MAX: Final = 4_096  # HTTP sessions; the longest unused goes first

# -- calls over HTTP (wire/http_calls.py, relay/apply.py)
APPLY_BODY_BYTES_MAX: Final = 65_536  # arguments of one PUT: JSON of strangers, read in the loop
APPLY_VALUE_BYTES_MAX: Final = 65_536  # what it gives, encoded; as JSON up to four times as much
APPLY_GRANT_CHARS_MAX: Final = 10_928  # a grant of GRANT_BYTES_MAX in base64, with its colons
APPLY_S_MAX: Final = 60.0  # how long one waits; proxies cut what is longer
APPLY_WAITING_MAX: Final = 256  # that wait at one relay: 20 MB at most
APPLY_WAITING_PER_HOLDER_MAX: Final = 16  # of them of one grant's holder
APPLY_SEEN_MAX: Final = 4_096  # that a node has seen, by hash; a relay may deliver one twice

# -- chan, services for guests (wire/guests.py, wire/chan.py, chan/)
CHAN_TRIES_MAX: Final = 3  # wrong passwords from one address, then ...
CHAN_BACKOFF_S: Final = 60.0  # ... none for so long: 6 letters and digits last 36,000 years
CHAN_VALUE_BYTES_MAX: Final = 262_144  # one value; a stranger's, so less than a member's
CHAN_WAITING_MAX: Final = 64  # values of one guest that wait for his service: 16 MiB of his
CHAN_CONNECTIONS_MAX: Final = 100  # open at once, as in lib_chan
CHAN_CONNECTIONS_PER_ADDRESS_MAX: Final = 32  # so that one guest cannot take all of them
CHAN_CONF_BYTES_MAX: Final = 65_536
CHAN_CONF_DEPTH_MAX: Final = 8  # tuples in lists in tuples
CHAN_SERVICES_MAX: Final = 64
CHAN_PASSWORD_BYTES_MAX: Final = 1_024
CHAN_KEEPALIVE_S: Final = 10.0  # each side says so often that it lives ...
CHAN_SILENCE_S: Final = 35.0  # ... and after three such words missed counts as dead
CHAN_SEND_S: Final = 30.0  # a peer that takes nothing for so long is cut off

# -- processes
RUNTIMES_MAX: Final = 4_096  # of one node: workers and clients; a cluster has 64 nodes
RUNTIME_MODULES_MAX: Final = 256  # modules whose functions one runtime can start
PROCESS_NAMES_MAX: Final = 16_384  # registered on one node; OTP's sets have no bound but memory
PROCESS_NAME_BYTES_MAX: Final = 255  # its length is one byte on the wire
PROCESSES_MAX: Final = 262_144  # of one runtime: OTP's default; 1.1 GB
CHILDREN_MAX: Final = 40_000  # of a supervisor: a link each, and a monitor while all are stopped
INSERTED_EVENTS_MAX: Final = 10_000  # of a state machine, by its own next_event; as a mailbox
STATE_TIMEOUTS_MAX: Final = 1_024  # that one state machine has set; OTP's examples have three
EVENT_HANDLERS_MAX: Final = 1_024  # of one event manager: each takes each event
REGISTRY_ENTRIES_MAX: Final = 65_536  # of one registry: a monitor for each of its processes
APPLICATIONS_MAX: Final = 256  # that run in one program; an Erlang system has some 50
TIMERS_MAX: Final = 262_144  # messages that wait for their time (send_after) in one runtime
PAUSED_MAX: Final = 65_536  # processes elsewhere that take no more for now; then they drop
TRACERS_MAX: Final = 16  # of one process
TRACE_EVENTS_MAX: Final = 100_000  # that a trace keeps for who does not read them: 50 MB
GROUPS_MAX: Final = 16_384  # process groups of all scopes, in the whole cluster
GROUP_SCOPES_MAX: Final = 64
GROUP_MEMBERS_MAX: Final = 65_536  # of all groups, in the whole cluster
GROUP_NAME_BYTES_MAX: Final = 255  # as a value on the wire
GROUP_MONITORS_MAX: Final = 16_384  # of one runtime
COMPUTATIONS_MAX: Final = 1_024  # that wait for a thread or a program of their own
CONNECTING_BYTES_MAX: Final = 64 * 1024 * 1024  # signals for nodes that are being connected

# -- port mapper (wire/epmd.py)
MAPPER_NAME_BYTES_MAX: Final = 255  # an Erlang atom has at most 255 characters; here bytes
MAPPER_EXTRA_BYTES_MAX: Final = 255  # Erlang sends none, we send "drupelet/1"
MAPPER_REQUEST_BYTES_MAX: Final = 525  # 2 length + 13 fixed + name + extra, the longest: ALIVE2
MAPPER_NAMES_MAX: Final = 16_384  # held at once; each costs a descriptor (the bar is 10,000)
MAPPER_PENDING_MAX: Final = 256  # connections whose request is not whole; the oldest goes first
MAPPER_REQUEST_S: Final = 5.0  # from accept to a whole request, and from answer to read
MAPPER_UNSENT_MAX: Final = 16  # answers that their asker has not read yet; NAMES may be 4 MiB each
MAPPER_ANSWER_BYTES_MAX: Final = 5 * 1024 * 1024  # NAMES of 16,384 names of 255 bytes: 4.7 MB
