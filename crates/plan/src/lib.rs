//! The vocabulary of kiln. Pure: bytes in, values out. Nothing here touches the file system, the network, the
//! environment or a clock, so that everything a build decides can be tested and explained from its inputs alone.

pub mod base;
pub mod diagnostic;
pub mod digest;
pub mod event;
pub mod gpu;
pub mod lock;
pub mod marker;
pub mod parallel;
pub mod platform;
pub mod public_key;
pub mod reference;
pub mod secret;
pub mod size;
pub mod stack;
pub mod step;
pub mod torch_family;
pub mod whiteout;
