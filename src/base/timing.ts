import { MAX_TIMER_MS } from './duration.ts'
import { DatabaseError } from './errors.ts'

/** Settles with `promise`, or rejects after `timeoutMs`; what comes later is not looked at. */
export async function bounded<T>(
  promise: Promise<T>,
  timeoutMs: number,
  late: () => Error = () => noAnswer(timeoutMs),
): Promise<T> {
  if (timeoutMs > MAX_TIMER_MS) return promise
  let timer: NodeJS.Timeout | undefined
  const timeout = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(late()), timeoutMs)
  })
  try {
    return await Promise.race([promise, timeout])
  } finally {
    clearTimeout(timer)
  }
}

/** `limit`: what ended the wait for the database, in words. */
export function noAnswer(timeoutMs: number, limit = 'statementTimeout'): DatabaseError {
  return new DatabaseError(
    'connection',
    `no answer within ${Math.round(timeoutMs)} ms (${limit}): the database does not respond, or the pool has no free connection. If this was called inside a transaction that holds the pool's last connection, pass that transaction or enlarge the pool`,
    { cause: undefined },
  )
}

/** The same of a statement in a transaction of the caller's. */
export function noAnswerIn(timeoutMs: number, limit = 'statementTimeout'): DatabaseError {
  return new DatabaseError(
    'connection',
    `no answer within ${Math.round(timeoutMs)} ms (${limit}): the connection of this transaction does not respond, or another transaction keeps the row of the lock locked. Roll this one back: what was asked for may still happen in it`,
    { cause: undefined },
  )
}

/** Rejects with the signal's own reason, unlike the sleep of node:timers/promises. */
export function sleep(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const abort = () => {
      clearTimeout(timer)
      reject(signal.reason)
    }
    const timer = setTimeout(() => {
      signal.removeEventListener('abort', abort)
      resolve()
    }, ms)
    signal.addEventListener('abort', abort, { once: true })
    if (signal.aborted) abort()
  })
}

/** As `bounded`, for what has to be closed again: drivers may wait for a silent server for as long as TCP does. */
export async function openedInTime<Opened extends { close(): Promise<void> }>(
  opening: Promise<Opened>,
  timeoutMs: number,
): Promise<Opened> {
  try {
    return await bounded(opening, timeoutMs)
  } catch (error) {
    // One that comes too late is not needed any more.
    opening.then((opened) => opened.close()).catch(() => undefined)
    throw error
  }
}

const FIRST_BACKOFF_MS = 50
const LONGEST_BACKOFF_MS = 1000

/** How long to pause after so many failures in a row, in milliseconds. */
export function backoff(failures: number, longestMs = LONGEST_BACKOFF_MS): number {
  return Math.min(longestMs, FIRST_BACKOFF_MS * 2 ** (failures - 1)) * (0.5 + Math.random() / 2)
}

/** A row is locked for a moment by other statements, or for long by a transaction: asked again soon at first. */
const SHORTEST_LOCKED_MS = 1
const LONGEST_LOCKED_MS = 20

/** Repeats `attempt` until it is true; false after `limitMs`. */
export async function untilUnlocked(attempt: () => Promise<boolean>, limitMs: number): Promise<boolean> {
  const end = performance.now() + limitMs
  for (let pauseMs = SHORTEST_LOCKED_MS; !(await attempt()); pauseMs = Math.min(LONGEST_LOCKED_MS, pauseMs * 2)) {
    if (performance.now() >= end) return false
    await new Promise((resolve) => setTimeout(resolve, pauseMs))
  }
  return true
}
