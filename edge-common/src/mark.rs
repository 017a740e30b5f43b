//! The mark that the kernel side leaves on a connection for whoever accepts it.

/// `SO_MARK` of a connection over its client's cap: whoever accepts it closes it without a byte, and so does edge's own
/// server. It is in the namespace of marks that `ip rule` and nftables see, but stands on nothing that lives: the kernel
/// sets it at the end of the handshake, before accept(2) can return the connection, and the agent closes it soon after.
/// Reading it takes no privilege.
pub const EXCESS_MARK: u32 = 0x6564_6765;
