//! What is traced, and what its spans say.

use bytes::Bytes;
use fanlight_engine::ids::Ids;
use fanlight_engine::publication::ContentType;
use opentelemetry::Value;
use uuid::Uuid;

use super::*;

const GIVEN: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

struct Traced {
    tracer: Arc<Tracer>,
    spans: mpsc::Receiver<SpanData>,
}

fn traced(publication_ratio: f64, publications_per_second: u32, queue_spans: usize) -> Traced {
    let (sender, spans) = mpsc::channel(queue_spans);
    let settings = Settings {
        target: Target {
            endpoint: "http://h".parse().unwrap(),
            headers: Vec::new(),
            ca_file: None,
            timeout: std::time::Duration::ZERO,
        },
        publication_ratio,
        publications_per_second,
        connection_ratio: 0.0,
        queue_spans,
        interval: std::time::Duration::ZERO,
        flush_timeout: std::time::Duration::ZERO,
    };
    Traced { tracer: Arc::new(Tracer::new(&settings, Clock::start(), true, sender)), spans }
}

fn publication(traceparent: Option<&str>) -> Publication {
    Publication {
        id: PublicationId(Uuid::now_v7()),
        destination: "/topic/secret.place".parse().unwrap(),
        body: Bytes::from_static(b"hello"),
        content_type: ContentType::Text,
        headers: traceparent.map(|value| (TRACEPARENT.into(), value.into())).into_iter().collect(),
        publisher: Some("ann".into()),
        at_unix_ms: 0,
        position: None,
        only_for: None,
        except: None,
        is_json: false,
    }
}

fn accepted(id: PublicationId) -> Answer {
    let published = Published { id, position: None, reach: Reach::Cluster };
    std::future::ready(Ok(published)).boxed()
}

#[test]
fn a_ratio_takes_its_part_of_ids() {
    let (mut ids, now) = (Ids::new(7), Clock::start().now());
    let ids: Vec<_> = (0..20_000).map(|_| ids.publication(now).0.as_u128()).collect();
    let taken = |ratio| ids.iter().filter(|id| Part::of(ratio).has(**id)).count();
    assert_eq!((taken(0.0), taken(1.0)), (0, ids.len()));
    assert!((4_000..6_000).contains(&taken(0.25)), "{}", taken(0.25));
}

#[test]
fn who_asks_for_a_trace_decides_and_the_ratio_decides_for_the_others() {
    let unsampled = GIVEN.replace("-01", "-00");
    for (ratio, given, is_traced) in [
        (0.0, None, false),
        (1.0, None, true),
        (0.0, Some(GIVEN), true),
        (1.0, Some(&*unsampled), false),
        (0.0, Some("00-nonsense"), false),
        (1.0, Some("00-nonsense"), true),
    ] {
        let one = traced(ratio, 0, 9);
        let mut publication = publication(given);
        let before = publication.clone();
        let publishing = one.tracer.publish(&mut publication, "websocket", None);
        assert_eq!(publishing.is_some(), is_traced, "{ratio} {given:?}");
        if !is_traced {
            assert_eq!(publication, before, "what is not traced goes as it came");
        }
    }
}

#[tokio::test]
async fn the_spans_of_a_publication_are_children_of_what_it_came_with() {
    let mut one = traced(0.0, 0, 9);
    let mut publication = publication(Some(GIVEN));
    let publishing = one.tracer.publish(&mut publication, "websocket", None).unwrap();
    publishing.within(Some("topic")).watch(accepted(publication.id)).await.unwrap();
    let delivering = one.tracer.deliver(&[Arc::new(publication.clone())]).unwrap();
    one.tracer.delivered(delivering, 1, Some("topic"), 7);

    let redis = one.spans.try_recv().unwrap();
    let publish = one.spans.try_recv().unwrap();
    let deliver = one.spans.try_recv().unwrap();
    assert_eq!([&redis.name, &publish.name, &deliver.name], ["redis", "publish", "deliver"]);
    for span in [&redis, &publish, &deliver] {
        assert_eq!(span.span_context.trace_id().to_string(), &GIVEN[3..35]);
        assert!(span.start_time <= span.end_time);
        let text = format!("{span:?}");
        assert!(!text.contains("ann") && !text.contains("secret"), "{text}");
    }
    assert_eq!(publish.parent_span_id.to_string(), &GIVEN[36..52]);
    let own = publish.span_context.span_id();
    assert_eq!((redis.parent_span_id, deliver.parent_span_id), (own, own));
    let carried = Context::of(&publication).unwrap();
    assert_eq!((carried.span, carried.is_sampled), (own, true));
    let subscribers = deliver.attributes.iter().find(|a| a.key.as_str() == "fanlight.subscribers");
    assert_eq!(subscribers.map(|attribute| &attribute.value), Some(&Value::I64(7)));
}

#[test]
fn what_is_above_the_rate_is_traced_nowhere() {
    let one = traced(0.0, 2, 9);
    let mut within = 0;
    for _ in 0..10 {
        let mut publication = publication(Some(GIVEN));
        let publishing = one.tracer.publish(&mut publication, "websocket", None);
        within += u32::from(publishing.is_some());
        let delivering = one.tracer.deliver(&[Arc::new(publication)]);
        assert_eq!(delivering.is_some(), publishing.is_some());
    }
    assert!((2..10).contains(&within), "{within}");
}

#[test]
fn what_finds_no_room_is_dropped_and_nobody_waits() {
    let mut one = traced(0.0, 0, 1);
    let all: Vec<_> = (0..3).map(|_| Arc::new(publication(Some(GIVEN)))).collect();
    let delivering = one.tracer.deliver(&all).unwrap();
    one.tracer.delivered(delivering, 0, None, 1);
    assert!(one.spans.try_recv().is_ok() && one.spans.try_recv().is_err());
}
