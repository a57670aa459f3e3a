/* SPDX-License-Identifier: MIT
 *
 * The terminal while `sonde top` lives in it: see screen.h. Signal handlers only set flags and write a byte to a pipe, which
 * wakes screen_wait(): no signal can come between a test of the flag and the wait.
 */
#include "server/screen.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

volatile sig_atomic_t screen_stop;

static struct termios screen_before;
static bool screen_taken;
static int screen_pipe[2] = { -1, -1 };
static volatile sig_atomic_t screen_suspend;

static const char screen_enter[] =
	"\033[?1049h\033[?25l\033[?7l"; /* alternate screen, no cursor, no wrapping */
static const char screen_leave[] = "\033[?7h\033[?25h\033[?1049l";

static void screen_on_signal(int number)
{
	int before = errno;

	if (number == SIGTSTP)
		screen_suspend = 1;
	else if (number != SIGWINCH && number != SIGCONT)
		screen_stop = 1;
	if (write(screen_pipe[1], "", 1) < 0) {
		/* full: it wakes anyway */
	}
	errno = before;
}

static void screen_write(const char *text, size_t size)
{
	while (size > 0) {
		ssize_t wrote = write(STDOUT_FILENO, text, size);

		if (wrote < 0 && errno != EINTR)
			return; /* the terminal is gone: SIGHUP follows */
		if (wrote > 0) {
			text += wrote;
			size -= (size_t)wrote;
		}
	}
}

/* Keys one by one and unseen; Ctrl-C and Ctrl-Z stay signals. */
static void screen_take(void)
{
	struct termios raw = screen_before;

	raw.c_lflag &= ~(tcflag_t)(ICANON | ECHO);
	raw.c_cc[VMIN] = 0;
	raw.c_cc[VTIME] = 0;
	tcsetattr(STDIN_FILENO, TCSADRAIN, &raw);
	screen_write(screen_enter, sizeof(screen_enter) - 1);
	screen_taken = true;
}

void screen_close(void)
{
	if (!screen_taken)
		return;
	screen_taken = false;
	screen_write(screen_leave, sizeof(screen_leave) - 1);
	tcsetattr(STDIN_FILENO, TCSADRAIN, &screen_before);
}

int screen_open(bool full)
{
	static const int ending[] = { SIGINT, SIGTERM, SIGHUP },
			 moving[] = { SIGWINCH, SIGTSTP, SIGCONT };
	struct sigaction action = { .sa_handler = screen_on_signal };

	if (pipe2(screen_pipe, O_CLOEXEC | O_NONBLOCK) < 0)
		return -errno;
	for (size_t i = 0; i < sizeof(ending) / sizeof(ending[0]); i++)
		sigaction(ending[i], &action, NULL);
	if (!full || tcgetattr(STDIN_FILENO, &screen_before) < 0)
		return 0;
	for (size_t i = 0; i < sizeof(moving) / sizeof(moving[0]); i++)
		sigaction(moving[i], &action, NULL);
	screen_take();
	return 0;
}

/* Ctrl-Z: give the terminal back, sleep until somebody continues us, take it again. */
static void screen_sleep(void)
{
	screen_suspend = 0;
	screen_close();
	raise(SIGSTOP);
	screen_take();
}

void screen_size(size_t *columns, size_t *rows)
{
	struct winsize size;

	*columns = 80;
	*rows = 24;
	if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 && size.ws_row > 0) {
		*columns = size.ws_col;
		*rows = size.ws_row;
	}
}

void screen_show(const char *text)
{
	size_t size = 0;
	char *frame = NULL;
	FILE *f = open_memstream(&frame, &size);

	if (!f)
		return;
	/* Erase before writing: after a full line, erasing would take its last character. */
	fputs("\033[H\033[K", f);
	for (; *text; text++) {
		if (*text == '\n')
			fputs(text[1] ? "\r\n\033[K" : "", f);
		else
			fputc(*text, f);
	}
	fputs("\033[J", f);
	if (fclose(f) == 0)
		screen_write(frame, size);
	free(frame);
}

int screen_wait(int ms)
{
	struct pollfd fds[] = { { .fd = screen_pipe[0], .events = POLLIN },
				{ .fd = screen_taken ? STDIN_FILENO : -1, .events = POLLIN } };
	char byte[64];

	if (poll(fds, 2, ms) <= 0)
		return 0;
	if (fds[0].revents) {
		while (read(screen_pipe[0], byte, sizeof(byte)) > 0)
			;
		if (screen_suspend && !screen_stop)
			screen_sleep();
	}
	if (fds[1].revents) {
		ssize_t got = read(STDIN_FILENO, byte, sizeof(byte));

		if (got <= 0)
			screen_stop = 1; /* the terminal is gone */
		else if (got == 1)       /* more: an arrow or the like */
			return (unsigned char)byte[0];
	}
	return 0;
}
