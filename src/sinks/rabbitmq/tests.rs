//! Settings for tests without a broker.

use crate::config::{RabbitMqSink as Settings, Secret, Unroutable};

/// The default settings.
pub(super) fn settings() -> Settings {
    Settings {
        url: Secret::new(&b"amqp://127.0.0.1:5672/%2f"[..]),
        exchange: "alma".to_owned(),
        declare: true,
        unroutable: Unroutable::Keep,
        login: None,
        tls: None,
    }
}
