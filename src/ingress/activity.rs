//! Whether a connection is idle or answering a request.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::connections::Connection;

/// Shared by the requests of one connection.
pub(super) struct Activity {
    /// Odd while a request is being answered.
    turn: Arc<AtomicU32>,
    connection: Arc<Connection>,
}

impl Activity {
    pub(super) fn new(connection: Arc<Connection>) -> Self {
        Self { turn: Arc::default(), connection }
    }

    /// A counter that grows when a request's head has arrived, and again when its answer is ready.
    pub(super) fn turn(&self) -> Arc<AtomicU32> {
        Arc::clone(&self.turn)
    }

    /// The head of a request has arrived.
    pub(super) fn request_begins(&self) {
        self.turn.fetch_add(1, Ordering::Relaxed);
    }

    /// The answer is ready.
    pub(super) fn request_ends(&self) {
        self.turn.fetch_add(1, Ordering::Relaxed);
    }

    /// The connection carried a proven event, so it comes from Alma or its proxy.
    pub(super) fn proven(&self) {
        self.connection.trust();
    }
}
