//! Prometheus: `/metrics`, with every series from the start.
//!
//! Owns: the listening socket. Asks: the recorder. Dies when: the port cannot be bound. After a restart: nothing is lost,
//! the numbers live in the recorder.

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::task::JoinHandle;

use crate::listen::Sockets;

/// How often the recorder's histograms are drained; without it they grow.
const UPKEEP: Duration = Duration::from_secs(5);

/// Bounds of the duration histograms, in seconds.
const SECONDS: [f64; 14] =
    [0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0];

/// Installs the recorder of this process and makes the series that have no owner yet.
///
/// # Errors
/// When there is one already.
pub fn install() -> Result<PrometheusHandle, String> {
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &SECONDS)
        .and_then(|builder| {
            let sizes = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0];
            builder.set_buckets_for_metric(Matcher::Suffix("_operations".into()), &sizes)
        })
        .map_err(|error| error.to_string())?
        .install_recorder()
        .map_err(|error| error.to_string())?;
    describe();
    Ok(handle)
}

fn describe() {
    use metrics::{counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};

    describe_counter!("mailtree_smtpd_connections_total", "Connections accepted, by service and verdict.");
    describe_counter!("mailtree_smtpd_replies_total", "SMTP replies sent, by class of code.");
    for class in ["2", "3", "4", "5"] {
        counter!("mailtree_smtpd_replies_total", "class" => class).absolute(0);
    }
    describe_counter!("mailtree_queue_accepted_messages_total", "Messages made durable.");
    counter!("mailtree_queue_accepted_messages_total").absolute(0);
    describe_counter!("mailtree_queue_accepted_bytes_total", "Their bytes.");
    counter!("mailtree_queue_accepted_bytes_total").absolute(0);
    describe_histogram!("mailtree_queue_commit_seconds", "Time to make a message durable.");
    drop(histogram!("mailtree_queue_commit_seconds"));
    describe_histogram!("mailtree_queue_batch_seconds", "Time for a batch of disk operations.");
    drop(histogram!("mailtree_queue_batch_seconds"));
    describe_histogram!("mailtree_queue_batch_operations", "Disk operations made durable together.");
    drop(histogram!("mailtree_queue_batch_operations"));
    describe_gauge!("mailtree_queue_messages", "Messages in the queue, by state.");
    for state in ["todo", "preprocessed", "local", "remote", "bouncing"] {
        gauge!("mailtree_queue_messages", "state" => state).set(0.0);
    }
    describe_gauge!("mailtree_queue_free_bytes", "Free bytes on the queue's filesystem.");
    describe_gauge!("mailtree_queue_free_inodes", "Free inodes on the queue's filesystem.");
    describe_counter!("mailtree_deliveries_total", "Delivery attempts, by channel and result.");
    for channel in ["local", "remote"] {
        for result in ["success", "deferral", "failure"] {
            counter!("mailtree_deliveries_total", "channel" => channel, "result" => result).absolute(0);
        }
    }
    describe_counter!("mailtree_bounces_total", "Bounces, by kind.");
    for kind in ["single", "double", "triple"] {
        counter!("mailtree_bounces_total", "kind" => kind).absolute(0);
    }
    describe_counter!("mailtree_resolver_lookups_total", "DNS lookups, by result.");
    for result in ["found", "no-name", "failed"] {
        counter!("mailtree_resolver_lookups_total", "result" => result).absolute(0);
    }
    describe_gauge!("mailtree_permits_in_use", "Permits in use, by what they count.");
    describe_gauge!("mailtree_permits_limit", "Permits there are, by what they count.");
    describe_counter!("mailtree_log_lines_dropped_total", "Log lines dropped because the log was full.");
    counter!("mailtree_log_lines_dropped_total").absolute(0);
    describe_counter!("mailtree_unheard_answers_total", "Answers whose asker had gone.");
    counter!("mailtree_unheard_answers_total").absolute(0);
}

/// The service.
pub struct Exporter;

/// What it needs.
pub struct Arguments {
    /// Name of the service.
    pub service: String,
    /// Where it listens.
    pub listen: SocketAddr,
    /// The host's listening sockets.
    pub sockets: Sockets,
    /// The recorder.
    pub handle: PrometheusHandle,
}

/// Its state.
pub struct State {
    arguments: Arguments,
    server: JoinHandle<()>,
}

impl Drop for State {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// What it hears.
pub enum Message {
    /// Time for the recorder's upkeep.
    Upkeep,
    /// The server has ended.
    Ended(String),
}

impl Actor for Exporter {
    type Msg = Message;
    type State = State;
    type Arguments = Arguments;

    async fn pre_start(
        &self,
        myself: ActorRef<Message>,
        arguments: Arguments,
    ) -> Result<State, ActorProcessingErr> {
        let listener = arguments.sockets.listen(&arguments.service, arguments.listen)?;
        let page = {
            let handle = arguments.handle.clone();
            Router::new().route("/metrics", get(async move || handle.render()))
        };
        myself.send_interval(UPKEEP, || Message::Upkeep);
        let server = tokio::spawn(async move {
            let ended = axum::serve(listener, page).await;
            drop(myself.cast(Message::Ended(ended.err().map_or_else(|| "ended".into(), |e| e.to_string()))));
        });
        Ok(State { arguments, server })
    }

    async fn handle(
        &self,
        _: ActorRef<Message>,
        message: Message,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Message::Upkeep => {
                state.arguments.handle.run_upkeep();
                Ok(())
            }
            Message::Ended(cause) => Err(format!("metrics server: {cause}").into()),
        }
    }

    async fn post_stop(&self, _: ActorRef<Message>, state: &mut State) -> Result<(), ActorProcessingErr> {
        state.arguments.sockets.close(&state.arguments.service);
        Ok(())
    }
}
