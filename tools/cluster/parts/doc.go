// Package parts makes the container images of what a test cluster needs beside the product and cannot pull
// from anywhere: out of programs that are built from pinned modules, and out of what is installed on this
// machine. They are for tests: nobody should run them elsewhere.
package parts
