# Sourced by csh or tcsh: `source /opt/venv/bin/activate.csh`. `deactivate` ends it.
alias deactivate 'if ($?_OLD_VIRTUAL_PATH) setenv PATH "$_OLD_VIRTUAL_PATH"; unset _OLD_VIRTUAL_PATH; unsetenv VIRTUAL_ENV; unsetenv VIRTUAL_ENV_PROMPT; rehash; unalias deactivate'
if (! $?_OLD_VIRTUAL_PATH) set _OLD_VIRTUAL_PATH = "$PATH"
setenv VIRTUAL_ENV /opt/venv
setenv VIRTUAL_ENV_PROMPT venv
setenv PATH "/opt/venv/bin:$_OLD_VIRTUAL_PATH"
rehash
