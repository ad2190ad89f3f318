//! Floor 5: the runtime around the node machine: reactor, readers, the publisher of the own tree.

mod ahead;
mod bulk;
mod change;
mod client;
mod clock;
mod collect;
mod copy;
mod discovery;
mod error;
mod fetcher;
mod gate;
mod link;
mod mark;
mod memory;
mod node_cache;
mod packs;
mod reactor;
mod reader;
mod rebuild;
mod record;
mod seal;
mod server;
mod setting;
mod start;
mod status;
mod survey;
mod swarm;
mod writer;

pub use error::{ReadError, ReadErrorKind};
pub use reader::{Child, DirectoryHandle, FileHandle, Reader, TreeNode};
pub use seal::SealError;
pub use setting::{Convergence, Settings};
pub use start::{Engine, StartError};
pub use status::{PeerStatus, Status, StoreStatus, Work};
pub use survey::{Counter, Kept, Survey, SurveyError};
pub use writer::{PublishError, PublishState, Published, Writer};
