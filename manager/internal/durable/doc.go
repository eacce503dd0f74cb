// Package durable writes small files so that either the old or the new content is
// there after a power failure, and journals of lines to which one may be added at a time;
// in both damage is noticed.
package durable
