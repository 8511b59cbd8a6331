//! A queue's message in its consumer's protocol. Each goes to one consumer, so nothing is shared.

use fanlight_proto::native::{self, MessageFields, QueueMark};
use fanlight_proto::{sse, stomp};

use super::consumers::OwnWire;
use super::{DELIVERY_COUNT, Dispatch};

impl Dispatch {
    /// Appends the message; whether it is text.
    pub fn write(&self, out: &mut Vec<u8>) -> bool {
        out.reserve(self.publication.body.len() + 256);
        match &self.wire {
            OwnWire::Native { named } => {
                self.write_native(*named, out);
                true
            }
            OwnWire::Events { named } => {
                let mut data = Vec::new();
                self.write_native(*named, &mut data);
                sse::body(out, None, &data);
                true
            }
            OwnWire::Stomp { version, id } => {
                self.write_stomp(*version, id, out);
                std::str::from_utf8(&self.publication.body).is_ok()
            }
        }
    }

    fn write_native(&self, named: bool, out: &mut Vec<u8>) {
        let publication = &*self.publication;
        let destination = &publication.destination;
        let fields = MessageFields {
            to: &if named { destination.as_str().into() } else { destination.shown() },
            id: &publication.id.to_string(),
            body: &publication.body,
            content_type: publication.content_type.as_str(),
            is_json: publication.is_json,
            from: publication.publisher.as_deref(),
            at_unix_ms: publication.at_unix_ms,
            position: None,
            headers: &publication.headers,
        };
        let mark = QueueMark { needs_ack: self.needs_ack, delivery_count: self.delivery.count };
        native::write_queue_message(out, &fields, mark);
    }

    fn write_stomp(&self, version: stomp::Version, id: &str, out: &mut Vec<u8>) {
        let publication = &*self.publication;
        let message_id = publication.id.to_string();
        // An ack names one delivery: the subscription and the message (STOMP 1.2, "ACK").
        let ack = self.needs_ack.then(|| format!("{id}:{message_id}"));
        stomp::message_head(out, version, Some(id), ack.as_deref());
        let mut writer = stomp::Writer::continuing(out, version)
            .header("message-id", &message_id)
            .header("destination", &publication.destination.shown());
        if let Some(content_type) = publication.content_type.as_str() {
            writer = writer.header("content-type", content_type);
        }
        let redelivered = self.delivery.count > 1;
        if redelivered {
            writer = writer
                .header("redelivered", "true")
                .header(DELIVERY_COUNT, &self.delivery.count.to_string());
        }
        for (name, value) in &publication.headers {
            // A dead letter's own count gives way to that of its new queue.
            if !(redelivered && **name == *DELIVERY_COUNT) {
                writer = writer.header(name, value);
            }
        }
        writer.body(&publication.body);
    }
}
