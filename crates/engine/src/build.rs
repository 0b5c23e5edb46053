//! A build under way: the graph, its driver, and the cache as it is read.

use crate::driver::Driver;
use crate::images::Images;
use crate::remote::CacheReader;

/// Images of a stack that are built.
pub(crate) struct Build<'b> {
    pub(crate) images: &'b Images,
    pub(crate) driver: &'b Driver<'b>,
    pub(crate) remote: &'b CacheReader<'b>,
}
