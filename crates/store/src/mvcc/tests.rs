//! The facts one by one ([`facts`]), leases by the clock and the seam to a database ([`durable`]), and everything
//! at random against the obvious implementation ([`property`]).

mod durable;
mod facts;
mod naive;
mod property;
