//! What a handler is: an async function of those parts of an API's state that it uses, of who calls, and of what they ask for.

use std::future::Future;

use axum::extract::{FromRef, State};

use crate::{ApiError, Caller, Reply};

/// An async function `(State<Part>, …, caller, request) -> Result<answer, error>`.
///
/// Of the state `S` it gets the parts that its signature names ([`FromRef`]), and reaches nothing else. `Args` are the types of its
/// arguments; the compiler finds them.
pub trait Handler<S, Args>: Clone + Send + Sync + 'static {
    /// Who may call.
    type Caller: Caller;
    /// What they ask for.
    type Request: Send + 'static;
    /// What they are answered.
    type Answer: Reply;
    /// Why they are not.
    type Error: Into<ApiError> + Send + 'static;
    /// The work.
    type Future: Future<Output = Result<Self::Answer, Self::Error>> + Send + 'static;

    /// Calls it with its parts of the state.
    fn call(&self, state: &S, caller: Self::Caller, request: Self::Request) -> Self::Future;
}

macro_rules! handlers_with {
    ($($Part:ident)*) => {
        impl<F, S, $($Part,)* C, R, A, E, Fut> Handler<S, ($(State<$Part>,)* C, R)> for F
        where
            F: Fn($(State<$Part>,)* C, R) -> Fut + Clone + Send + Sync + 'static,
            $($Part: FromRef<S>,)*
            C: Caller,
            R: Send + 'static,
            A: Reply,
            E: Into<ApiError> + Send + 'static,
            Fut: Future<Output = Result<A, E>> + Send + 'static,
        {
            type Caller = C;
            type Request = R;
            type Answer = A;
            type Error = E;
            type Future = Fut;

            #[allow(unused_variables, reason = "a handler may use no part of the state")]
            fn call(&self, state: &S, caller: C, request: R) -> Fut {
                self($(State($Part::from_ref(state)),)* caller, request)
            }
        }
    };
}

handlers_with!();
handlers_with!(P1);
handlers_with!(P1 P2);
handlers_with!(P1 P2 P3);
handlers_with!(P1 P2 P3 P4);
handlers_with!(P1 P2 P3 P4 P5);
