# shellcheck shell=bash
# Scripts of the old vm source this file; what it held is loaded already.
