# Sourced by ./run, ./test and ./fix, which set $script to their own path with symlinks followed.
# Finds a Python and hands over to bootstrap.py, which makes .venv and runs the command in it.
unset CDPATH
case ${DATA_DIR:-/} in
/*) ;;
*) DATA_DIR=$PWD/$DATA_DIR && export DATA_DIR ;; # relative to the person's folder, not to the repository
esac
cd -- "$(dirname -- "$script")" || exit 1
for python in python3 python3.14 python3.13 python3.12 python3.11; do
    # A pyenv shim exists for versions that do not run, so each one is tried.
    if "$python" -I -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        exec "$python" -I services/devstack/bootstrap.py "${script##*/}" "$@"
    fi
done
echo "${script##*/}: no Python 3.11 or newer found (tried python3, python3.14 … python3.11)" >&2
exit 1
