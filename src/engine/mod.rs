//! Floor 5: the runtime around the node machine: reactor, readers, the publisher of the own tree.

mod ahead;
mod audit;
mod book;
mod bulk;
mod change;
mod client;
mod clock;
mod collect;
mod copy;
mod descent;
mod discovery;
mod error;
mod fetcher;
mod gate;
mod keep;
mod link;
mod mark;
mod memory;
mod missed;
mod money;
mod names;
mod node_cache;
mod packs;
mod pay;
mod port;
mod purse;
mod rank;
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
mod timetable;
mod writer;

pub use audit::AuditEntry;
pub use error::{CREDIT_LIMIT, ReadError, ReadErrorKind, TOO_DEAR};
pub use missed::Missing;
pub use money::HeldUp;
pub use names::{NameError, NameStatus, Names};
pub use purse::{Purse, PurseSettings, PurseState};
pub use reader::{Child, DirectoryHandle, FileHandle, Reader, TreeNode};
pub use seal::SealError;
pub use setting::{Convergence, Settings};
pub use start::{Engine, StartError};
pub use status::{
    AllowanceStatus, BalanceStatus, KeptStatus, MarketStatus, MountStatus, PaymentStatus, PeerStatus, RentStatus,
    Status, StoreStatus, UploadStatus, Work,
};
pub use survey::{Claims, Counter, Kept, Survey, SurveyError};
pub use writer::{PublishError, PublishState, Published, Writer};
