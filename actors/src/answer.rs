//! Answering a call whose caller may have gone.

use ractor::RpcReplyPort;

/// Answers; a caller that gave up must not kill the callee, so it is only counted.
pub fn answer<T: Send + 'static>(reply: RpcReplyPort<T>, value: T) {
    if reply.send(value).is_err() {
        metrics::counter!("mailtree_unheard_answers_total").increment(1);
    }
}
