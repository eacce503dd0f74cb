// Package durable writes small files so that either the old or the new content is
// there after a power failure, and so that damage is noticed.
package durable
