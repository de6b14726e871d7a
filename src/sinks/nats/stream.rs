//! The JetStream stream: examines it, and creates it if it is missing and may be created. Never alters an existing one.

use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::context::{CreateStreamErrorKind, GetStreamErrorKind};
use async_nats::jetstream::stream::{Config as StreamConfig, DiscardPolicy, StorageType};

use super::Subjects;
use super::client::Connection;
use crate::config::NatsSink as Settings;
use crate::sinks::{Failure, Reason, message_limit};

impl Connection {
    /// Examines the stream, or creates it if it is missing and may be created. Returns what falls short.
    pub(super) async fn prepare_stream(
        &self,
        settings: &Settings,
        subjects: &Subjects,
        max_body: usize,
    ) -> Result<Vec<String>, Failure> {
        let mut warnings = Vec::new();
        let subject = format!("$JS.API.STREAM.INFO.{}", settings.stream);
        let stream = self.ask(&subject, self.jetstream.get_stream(&settings.stream)).await;
        match stream.map(|stream| stream.map_err(|error| error.kind())) {
            Ok(Ok(stream)) => warnings.extend(falls_short(&stream.cached_info().config, settings, subjects, max_body)),
            Ok(Err(GetStreamErrorKind::JetStream(error))) if error.error_code() == ErrorCode::STREAM_NOT_FOUND => {
                if settings.create_stream {
                    match self.create_stream(settings, subjects).await {
                        Ok(_) => tracing::info!(stream = settings.stream, "stream created"),
                        Err(failure) => warnings.push(format!("cannot create stream {}: {failure}", settings.stream)),
                    }
                } else {
                    warnings.push(format!("stream {} does not exist and create_stream is false", settings.stream));
                }
            }
            Ok(Err(GetStreamErrorKind::JetStream(error))) => {
                return Err(Failure::new(Reason::Busy, format!("JetStream says: {error}")));
            }
            Err(failure) if failure.reason == Reason::Unreachable => return Err(failure),
            // No answer: JetStream is not available yet, or there is no right to ask. Publishing shows which.
            Ok(Err(error)) => warnings.push(format!("cannot examine stream {}: {error}", settings.stream)),
            Err(failure) => warnings.push(format!("cannot examine stream {}: {failure}", settings.stream)),
        }
        let limit = message_limit(max_body);
        if self.client.max_payload() < limit {
            warnings.push(format!(
                "the server's max_payload is {} bytes, but events can have {limit}: raise max_payload in its configuration",
                self.client.max_payload()
            ));
        }
        Ok(warnings)
    }

    /// Creates the stream on these subjects. Returns `false` if it already exists with other settings.
    pub(super) async fn create_stream(&self, settings: &Settings, subjects: &Subjects) -> Result<bool, Failure> {
        let subject = format!("$JS.API.STREAM.CREATE.{}", settings.stream);
        let created = self.jetstream.create_stream(stream_config(settings, subjects));
        match self.ask(&subject, created).await? {
            Ok(_) => Ok(true),
            Err(error) => match error.kind() {
                CreateStreamErrorKind::JetStream(said) if said.error_code() == ErrorCode::STREAM_NAME_EXIST => {
                    Ok(false)
                }
                CreateStreamErrorKind::JetStream(said) => Err(Failure::new(Reason::Missing, said.to_string())),
                CreateStreamErrorKind::TimedOut => Err(Failure::new(Reason::Timeout, "no answer in time")),
                _ => Err(Failure::new(Reason::Busy, error.to_string())),
            },
        }
    }
}

/// The configuration of a stream that the bridge creates.
fn stream_config(settings: &Settings, subjects: &Subjects) -> StreamConfig {
    StreamConfig {
        name: settings.stream.clone(),
        subjects: subjects.created.clone(),
        storage: StorageType::File,
        num_replicas: settings.replicas,
        max_age: settings.max_age,
        duplicate_window: settings.duplicate_window,
        description: Some("events of Ex Libris Alma, published by alma-bridge".to_owned()),
        ..StreamConfig::default()
    }
}

/// How an existing stream falls short of what is configured. The bridge never alters it.
pub(super) fn falls_short(
    found: &StreamConfig,
    settings: &Settings,
    subjects: &Subjects,
    max_body: usize,
) -> Vec<String> {
    let stream = &settings.stream;
    let mut warnings = Vec::new();
    if !subjects.are_taken_by(&found.subjects) {
        let (found, asked) = (found.subjects.join(", "), subjects.created.join(", "));
        warnings.push(format!("stream {stream} takes {found}: other subjects cannot be published, expected {asked}"));
    }
    if found.storage != StorageType::File {
        warnings
            .push(format!("stream {stream} is kept in memory, and a restart of the server loses it: expected file"));
    }
    if found.num_replicas < settings.replicas {
        let (found, asked) = (found.num_replicas, settings.replicas);
        warnings.push(format!("stream {stream} has {found} replicas, expected {asked}"));
    }
    if found.duplicate_window < settings.duplicate_window {
        let (found, asked) = (found.duplicate_window, settings.duplicate_window);
        let (found, asked) = (humantime::format_duration(found), humantime::format_duration(asked));
        warnings.push(format!("stream {stream} remembers ids for {found}, expected {asked}"));
    }
    let limit = message_limit(max_body);
    if usize::try_from(found.max_message_size).is_ok_and(|size| size > 0 && size < limit) {
        let size = found.max_message_size;
        warnings.push(format!("stream {stream} has max_msg_size {size}, but events can have {limit} bytes"));
    }
    let bounded = found.max_bytes > 0 || found.max_messages > 0;
    if found.no_ack {
        warnings
            .push(format!("stream {stream} has no_ack, so it confirms nothing, and nothing can be published to it"));
    } else if bounded && found.discard == DiscardPolicy::Old {
        warnings.push(format!("stream {stream} has a limit and discards its oldest messages, read or not, to keep it"));
    }
    warnings
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::{NatsAuth, TopicPart, TopicTemplate};

    fn settings() -> Settings {
        Settings {
            servers: vec!["nats://127.0.0.1:4222".into()],
            stream: "ALMA".into(),
            create_stream: true,
            replicas: 1,
            max_age: Duration::from_hours(7 * 24),
            duplicate_window: Duration::from_hours(2),
            auth: NatsAuth::None,
            tls: None,
        }
    }

    fn subjects() -> Subjects {
        let parts = vec![TopicPart::Literal("alma.".to_owned()), TopicPart::Action];
        Subjects::of(&TopicTemplate { parts })
    }

    #[test]
    fn a_stream_that_the_bridge_creates_does_not_fall_short() {
        let mut config = stream_config(&settings(), &subjects());
        assert_eq!(falls_short(&config, &settings(), &subjects(), 8 << 20), Vec::<String>::new());
        config.subjects = vec!["alma.*".into()];
        assert_eq!(
            falls_short(&config, &settings(), &subjects(), 8 << 20),
            Vec::<String>::new(),
            "it accepts every topic"
        );
    }

    #[test]
    fn each_shortfall_is_reported() {
        let found = StreamConfig {
            subjects: vec!["alma.loan".into()],
            storage: StorageType::Memory,
            num_replicas: 1,
            duplicate_window: Duration::from_mins(2),
            max_message_size: 1_000,
            max_bytes: 1 << 20,
            ..StreamConfig::default()
        };
        let warnings = falls_short(&found, &Settings { replicas: 3, ..settings() }, &subjects(), 8 << 20);
        for (warning, part) in
            warnings.iter().zip(["alma.loan", "memory", "1 replicas", "2m", "max_msg_size 1000", "discards"])
        {
            assert!(warning.contains(part), "{warning:?} should say {part:?}");
        }
        assert_eq!(warnings.len(), 6, "{warnings:?}");
    }
}
