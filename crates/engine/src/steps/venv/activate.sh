# Sourced by sh, bash or zsh: `. /opt/venv/bin/activate`. `deactivate` ends it.
deactivate() {
    if [ -n "${_OLD_VIRTUAL_PATH+x}" ]; then
        PATH=$_OLD_VIRTUAL_PATH
        export PATH
        unset _OLD_VIRTUAL_PATH
    fi
    if [ -n "${_OLD_VIRTUAL_PYTHONHOME+x}" ]; then
        PYTHONHOME=$_OLD_VIRTUAL_PYTHONHOME
        export PYTHONHOME
        unset _OLD_VIRTUAL_PYTHONHOME
    fi
    if [ -n "${_OLD_VIRTUAL_PS1+x}" ]; then
        PS1=$_OLD_VIRTUAL_PS1
        unset _OLD_VIRTUAL_PS1
    fi
    hash -r 2>/dev/null
    unset VIRTUAL_ENV VIRTUAL_ENV_PROMPT
    [ "${1-}" = nondestructive ] || unset -f deactivate
}

deactivate nondestructive
_OLD_VIRTUAL_PATH=$PATH
VIRTUAL_ENV=/opt/venv
VIRTUAL_ENV_PROMPT=venv
PATH=$VIRTUAL_ENV/bin:$PATH
export PATH VIRTUAL_ENV VIRTUAL_ENV_PROMPT
if [ -n "${PYTHONHOME+x}" ]; then
    _OLD_VIRTUAL_PYTHONHOME=$PYTHONHOME
    unset PYTHONHOME
fi
if [ -z "${VIRTUAL_ENV_DISABLE_PROMPT-}" ]; then
    _OLD_VIRTUAL_PS1=${PS1-}
    PS1="($VIRTUAL_ENV_PROMPT) ${PS1-}"
fi
hash -r 2>/dev/null || :
