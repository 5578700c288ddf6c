//! Prometheus: `/metrics`, with every series from the start.
//!
//! Owns: the listening socket. Asks: the recorder. Dies when: the port cannot be bound. After a restart: nothing is lost,
//! the numbers live in the recorder.

mod connections;
mod series;

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::http::header::CONNECTION;
use axum::routing::get;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::task::JoinHandle;

use crate::listen::Sockets;
use connections::Connections;

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
            ["_operations", "_records"].into_iter().try_fold(builder, |builder, suffix| {
                builder.set_buckets_for_metric(Matcher::Suffix(suffix.into()), &sizes)
            })
        })
        .map_err(|error| error.to_string())?
        .install_recorder()
        .map_err(|error| error.to_string())?;
    series::describe();
    Ok(handle)
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
            // One answer a connection: who keeps one takes another's place.
            Router::new().route("/metrics", get(async move || ([(CONNECTION, "close")], handle.render())))
        };
        myself.send_interval(UPKEEP, || Message::Upkeep);
        let server = tokio::spawn(async move {
            let ended = axum::serve(Connections::new(listener), page).await;
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
