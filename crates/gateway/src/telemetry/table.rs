//! The metrics of the node itself, as the recorder and `docs/metrics.md` have them.

use fanlight_engine::metric::{Metric, OPEN, Section};

use crate::app;

/// All of them.
pub const METRICS: &[Section] = &[
    Section { name: "node", metrics: NODE },
    Section { name: "connections", metrics: CONNECTIONS },
    Section { name: "messages", metrics: MESSAGES },
    Section { name: "app", metrics: APP },
    Section { name: "queues", metrics: QUEUES },
    Section { name: "webhooks", metrics: WEBHOOKS },
    Section { name: "traces", metrics: TRACES },
];

const NODE: &[Metric] = &[
    Metric::gauge("fanlight_build_info", "The version that runs; always 1.")
        .by(&[("version", OPEN)]),
    Metric::gauge("fanlight_ready", "1 while this node wants new connections.")
        .detail("As `/readyz` answers"),
    Metric::gauge("fanlight_draining", "1 while this node drains."),
    Metric::counter("fanlight_drains_total", "Drains begun, by what began them.")
        .by(&[("trigger", &["sigterm", "admin", "deregistered"])])
        .detail("See [operations](operations.md#what-begins-a-drain)"),
    Metric::gauge(
        "fanlight_drain_remaining_connections",
        "Connections that a drain has not closed yet; 0 while there is no drain.",
    ),
    Metric::gauge(
        "fanlight_ecs_task_protected",
        "1 while this node, a task of ECS, is protected from scale-in and deployments.",
    )
    .detail("With `drain.ecs_task_protection`"),
    Metric::counter("fanlight_ecs_failures_total", "Questions to the load balancer and the agent of ECS that failed.")
        .by(&[("call", &["target_health", "protection"])]),
    Metric::gauge(
        "fanlight_limit_used_ratio",
        "How much of a limit of this node is used; 1 is all, and 0 also where there is no limit.",
    )
    .by(&[("limit", &["connections", "http_connections", "handshakes", "worker_inbox"])])
    .detail("`connections` and `http_connections` of `[limits]`; `handshakes`, the burst of `limits.handshakes_burst`; `worker_inbox`, the fullest of the workers' inboxes"),
    Metric::counter("fanlight_api_requests_total", "Requests to the server API, by how they ended.")
        .by(&[("path", OPEN), ("method", &["DELETE", "GET", "POST"]), ("result", &["2xx", "4xx", "5xx"])])
        .detail("`path` as the API's document has it"),
    Metric::counter("fanlight_revoked_total", "Revocations that backends have asked this node for.")
        .by(&[("kind", &["token", "user", "session"])]),
    Metric::counter(
        "fanlight_orders_dropped_total",
        "Subscriptions and their ends that backends wanted of sessions which have too many to do.",
    ),
    Metric::counter("fanlight_panics_total", "Faults of our own that were contained.")
        .detail("Each ended one connection or one fan-out; please report them"),
];

const CONNECTIONS: &[Metric] = &[
    Metric::gauge("fanlight_connections", "Open connections.")
        .by(&[("worker", OPEN), ("transport", OPEN)])
        .detail("`websocket`, `sockjs_websocket`, `sockjs_http`, `sse`, `poll`, `stomp_tcp`; what comes by requests counts as one for as long as its session lasts"),
    Metric::gauge("fanlight_sessions", "Sessions whose CONNECT was accepted, up to a second old.")
        .by(&[("transport", OPEN), ("protocol", OPEN)])
        .detail("`stomp` or `native`, which is also what listeners by events and polls get"),
    Metric::gauge("fanlight_subscriptions", "Subscriptions of open sessions.")
        .by(&[("worker", OPEN)]),
    Metric::counter("fanlight_connections_opened_total", "Connections upgraded."),
    Metric::counter(
        "fanlight_handshakes_total",
        "Handshakes of every transport, by result and version of HTTP.",
    )
    .by(&[
        (
            "result",
            &[
                "accepted",
                "address_full",
                "connect_protocol",
                "draining",
                "foreign_origin",
                "node_full",
                "not_websocket",
                "paced",
                "subprotocol",
                "unauthorized",
                "websocket_key",
                "websocket_version",
            ],
        ),
        ("http", &["1", "2"]),
    ])
    .detail("`accepted`, or the code of the [refusal](protocol.md#refusals-of-the-handshake). Without `http`: connections of STOMP over TCP, sessions that polls and SockJS over HTTP open, and connections on which TLS was not agreed on (`tls_failed`, `tls_timeout`)"),
    Metric::counter(
        "fanlight_tokens_total",
        "Tokens that were given, by what they were.",
    )
    .by(&[("result", &["verified", "remembered", "refused", "revoked"])])
    .detail("`verified`, `remembered` (verified before, and not yet expired), `refused`, `revoked` (counted besides what it was first)"),
    Metric::counter("fanlight_jwks_fetches_total", "Fetches of keys, by how they ended.")
        .by(&[("result", &["ok", "failed"])])
        .detail("From the URLs of `[[auth.jwks]]`; the log says why one failed"),
    Metric::counter("fanlight_closes_total", "Connections ended, by reason.")
        .by(&[("reason", OPEN)])
        .detail("One of the [reasons](protocol.md#close-codes)"),
    Metric::counter(
        "fanlight_rebalanced_sessions_total",
        "Sessions told to go to a node that has fewer.",
    )
    .detail("See [rebalancing](cluster.md#rebalancing)"),
    Metric::counter("fanlight_accept_errors_total", "Connections that could not be accepted.")
        .detail("No file descriptor is left for them: the [last 64](tuning.md#open-files) are for the node itself"),
    Metric::counter(
        "fanlight_http_connections_refused_total",
        "Connections dropped for limits.http_connections or limits.connections_per_ip.",
    )
    .detail("Before their upgrade; over HTTP/2, requests"),
    Metric::gauge(
        "fanlight_outbox_bytes",
        "What connections have not taken yet, up to a second old.",
    ),
    Metric::gauge(
        "fanlight_outbox_connections",
        "Connections that something waits for, up to a second old.",
    ),
    Metric::counter(
        "fanlight_outbox_dropped_frames_total",
        "Frames dropped when a slow consumer was closed.",
    ),
];

const APP: &[Metric] = &[
    Metric::counter("fanlight_app_messages_total", "Messages to `/app/...`, by route and result.")
        .by(&[("route", OPEN), ("result", &app::RESULTS)])
        .detail("`route` is the pattern of one of `[[app.routes]]`. `handled`: the handler has answered, and the broker has accepted what it wants sent; `refused`: the handler said no; for the others see [what clients are told](app.md#what-clients-are-told)"),
    Metric::histogram(
        "fanlight_app_seconds",
        "From handing a message to its backend to the answer or failure, by the kind of backend.",
    )
    .by(&[("backend", &app::BACKENDS)])
    .detail("Of a webhook, its wait for a turn included. What was not asked, `unavailable` or `overloaded`, does not count; `timeout` does"),
];

const MESSAGES: &[Metric] = &[
    Metric::counter("fanlight_messages_received_total", "Messages from clients."),
    Metric::counter("fanlight_messages_sent_total", "Answers to clients."),
    Metric::counter("fanlight_received_bytes_total", "Bytes from clients."),
    Metric::counter(
        "fanlight_sent_bytes_total",
        "Bytes written to clients, within TLS and behind the handshake.",
    ),
    Metric::counter("fanlight_publishes_total", "Publications handed to the broker."),
    Metric::histogram(
        "fanlight_publish_seconds",
        "From handing a publication to the broker to its answer, of a sample.",
    )
    .detail("At most 40 a second and worker"),
    Metric::counter(
        "fanlight_publications_received_total",
        "Publications from the broker, once per worker.",
    ),
    Metric::counter("fanlight_deliveries_total", "Publications written to a subscriber."),
    Metric::histogram(
        "fanlight_fanout_seconds",
        "From taking what has come from the broker to having written it to all subscribers, of a sample.",
    )
    .detail("At most 40 a second and worker"),
    Metric::histogram(
        "fanlight_delivery_lag_seconds",
        "From a publication's acceptance, on any node, to having written it here to all subscribers, of a sample.",
    )
    .detail("In steps of a millisecond, and as exact as the nodes' clocks agree; at most 40 a second and worker"),
    Metric::counter(
        "fanlight_deliveries_dropped_total",
        "Deliveries from the broker that a worker's full inbox had no room for.",
    ),
    Metric::counter(
        "fanlight_conflated_messages_total",
        "Messages that a later one of their key replaced, by what kept them back.",
    )
    .by(&[("by", &["interval", "subscriber"])])
    .detail("`interval`, once per worker; `subscriber`, which was too slow, once for each such. See [conflation](conflation.md)"),
    Metric::counter(
        "fanlight_conflation_full_total",
        "Publications that went unconflated, once per worker, since limits.conflation was used up.",
    ),
    Metric::gauge(
        "fanlight_conflation_bytes",
        "What is kept for conflation, of limits.conflation per worker.",
    )
    .by(&[("worker", OPEN)]),
    Metric::counter(
        "fanlight_recoveries_total",
        "Subscriptions that wanted more than what comes, by result.",
    )
    .by(&[("result", OPEN)])
    .detail("`recovered`, or the [reason](protocol.md#history) why not"),
    Metric::counter(
        "fanlight_gaps_total",
        "Times that a worker found publications of a destination with history missing.",
    ),
    Metric::counter(
        "fanlight_gaps_healed_total",
        "Of these, those that were filled from the history, unnoticed by clients.",
    ),
    Metric::counter(
        "fanlight_gaps_lost_total",
        "Times that live subscribers had to be told of a loss.",
    ),
];

const QUEUES: &[Metric] = &[
    Metric::gauge("fanlight_queue_consumers", "Subscriptions that consume queues.")
        .by(&[("worker", OPEN)])
        .detail("See [queues](queues.md)"),
    Metric::counter("fanlight_queue_deliveries_total", "Messages given to consumers."),
    Metric::counter(
        "fanlight_queue_redeliveries_total",
        "Of these, those that had been delivered before.",
    ),
    Metric::counter("fanlight_queue_acks_total", "Messages acknowledged, those of `auto` included."),
    Metric::counter("fanlight_queue_nacks_total", "Messages given back by NACK."),
    Metric::counter("fanlight_queue_ack_timeouts_total", "Messages not acknowledged in time."),
    Metric::counter(
        "fanlight_queue_acks_ignored_total",
        "ACKs and NACKs of what their subscription did not hold, or no longer.",
    ),
    Metric::counter(
        "fanlight_queue_dead_letters_total",
        "Messages delivered too often, by what became of them.",
    )
    .by(&[("result", &["moved", "dropped", "failed"])])
    .detail("`moved` to the dead-letter destination, `dropped` as none is configured, or `failed` for now"),
];

const WEBHOOKS: &[Metric] = &[
    Metric::counter(
        "fanlight_webhook_requests_total",
        "Requests to webhooks, by what they were about and how they ended.",
    )
    .by(&[("webhook", OPEN), ("kind", OPEN), ("result", OPEN)])
    .detail(
        "`kind` is the `type` of the body, `result` one of [these](webhooks.md#what-can-go-wrong)",
    ),
    Metric::histogram(
        "fanlight_webhook_seconds",
        "From a request's turn to its answer or failure, with all tries.",
    )
    .by(&[("webhook", OPEN)]),
    Metric::gauge("fanlight_webhook_in_flight", "Requests under way.")
        .by(&[("webhook", OPEN)])
        .detail("At most `concurrency` of the webhook"),
    Metric::gauge("fanlight_webhook_waiting", "Requests that wait for their turn.")
        .by(&[("webhook", OPEN)])
        .detail("At most `waiting` of the webhook"),
    Metric::gauge(
        "fanlight_webhook_breaker_open",
        "1 while nothing of some kind is sent, since too much failed; until a trial has succeeded.",
    )
    .by(&[("webhook", OPEN)]),
    Metric::counter("fanlight_webhook_events_total", "Lifecycle events for webhooks, by what became of them.")
        .by(&[("webhook", OPEN), ("result", &["delivered", "refused", "lost"])])
        .detail("`refused` by a status that says that it will never be taken, or `lost` as `events.max_length` more had come. See [events](webhooks.md#events)"),
    Metric::gauge(
        "fanlight_webhook_events_waiting",
        "Lifecycle events that wait for a webhook, in what this node delivers.",
    )
    .by(&[("webhook", OPEN)])
    .detail("Up to 5 s old"),
    Metric::gauge(
        "fanlight_webhook_event_age_seconds",
        "How old the oldest lifecycle event is that this node is delivering; 0 when there is none.",
    )
    .by(&[("webhook", OPEN)]),
];

const TRACES: &[Metric] = &[
    Metric::counter("fanlight_trace_spans_total", "Spans, by what became of them.")
        .by(&[("result", &["exported", "failed", "queue_full", "rejected"])])
        .detail("`exported`; `failed`, could not be sent in time; `queue_full`, as `telemetry.traces.queue_spans` waited already; `rejected` by the collector. See [traces](observability.md#traces)"),
    Metric::counter(
        "fanlight_trace_publications_over_rate_total",
        "Publications that were to be traced, but for telemetry.traces.publications_per_second.",
    ),
];
