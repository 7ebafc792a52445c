/* comm/terminal.h - is there a person at the keyboard? */
#ifndef MW_COMM_TERMINAL_H
#define MW_COMM_TERMINAL_H
#include <stdbool.h>

#include "worker/base/status.h"
MW_BEGIN_DECLS

/* For rank 0, which alone gets the launcher's input. true if standard input is a terminal, or is a pipe from a local
 * launcher (mpirun, mpiexec, orterun, prterun, Hydra's proxy) whose own standard input is one: then an interactive
 * prompt makes sense, though isatty(0) says no. The terminal is the launcher's: it stays in line mode and echoes, the
 * end of input (Ctrl-D) arrives as the end of the pipe. False under srun, whose input end is not on this host. */
bool mw_stdin_is_user_terminal(void);

MW_END_DECLS
#endif
