// Package proxy is how agents and Managers go out through an HTTP proxy: by CONNECT, with
// basic sign-in where the setting has a user. Which one that is the setting says, or else
// HTTPS_PROXY and NO_PROXY in the environment. It is in this module because both ends need it
// and neither may import the other; of the libraries that are well kept none speaks CONNECT
// for anything but HTTPS.
//
// It may touch the network and the environment, and nothing else.
package proxy
