import pRetry from 'p-retry'
import { DatabaseError } from './errors.ts'
import type { Store } from './store/store.ts'

/** How often an idempotent statement is repeated when the connection breaks under it; more is for the caller to decide. */
const CONNECTION_RETRIES = 2
/**
 * Between repetitions, up to twice as long at random. Short and never longer, since whoever writes to a file of SQLite in turn
 * with others meets it free for moments only, and a try costs microseconds.
 */
const PAUSE_MS = 4

/**
 * The same store with patience: a statement that had no effect (serialization failure, deadlock, busy file) is repeated
 * until `timeoutMs`; one that had no answer, or met a server that was not ready, a few times, if repeating it is harmless; and no call lasts much longer than
 * `timeoutMs`, even if the pool never gives a connection. Only rowlock's own statements are ever repeated, never a
 * transaction of the caller's.
 */
export function patient<Tx>(store: Store<Tx>, timeoutMs: number): Store<Tx> {
  // A synchronous driver has answered when it returns: only conflicts take time there, and they are repeated until then.
  const inTime = <T>(call: Promise<T>) => (store.synchronous ? call : bounded(call, timeoutMs))
  const onConflict = <T>(call: () => Promise<T>) => repeat(call, timeoutMs, 0)
  const harmless = <T>(call: () => Promise<T>) => inTime(repeat(call, timeoutMs, 0))
  const idempotent = <T>(call: () => Promise<T>) => inTime(repeat(call, timeoutMs, CONNECTION_RETRIES))
  const {
    assertOpen,
    readsSnapshot,
    lookAtTransactions,
    closeGates,
    openGates,
    assess,
    guardedQuery,
    listen,
    changingFile,
  } = store

  return {
    synchronous: store.synchronous,
    single: store.single,
    guardsStopRenewal: store.guardsStopRenewal ?? false,
    // The waiting loop bounds it, because a late grant must be given back.
    acquire: (attempts) => onConflict(() => store.acquire(attempts)),
    acquireIn: (tx, attempt, waitMs) => {
      const answer = store.acquireIn(tx, attempt, waitMs)
      return store.synchronous ? answer : bounded(answer, waitMs + timeoutMs)
    },
    ...(readsSnapshot && { readsSnapshot: (tx) => inTime(readsSnapshot.call(store, tx)) }),
    ...(lookAtTransactions && { lookAtTransactions: (names) => harmless(() => lookAtTransactions.call(store, names)) }),
    ...(closeGates && { closeGates: (names) => harmless(() => closeGates.call(store, names)) }),
    ...(openGates && { openGates: (names) => harmless(() => openGates.call(store, names)) }),
    enqueue: (arrivals, maxWaiters) => harmless(() => store.enqueue(arrivals, maxWaiters)),
    leave: (departures) => harmless(() => store.leave(departures)),
    look: (names) => harmless(() => store.look(names)),
    settle: (names, process) => harmless(() => store.settle(names, process)),
    releaseIn: (tx, hold) => store.releaseIn(tx, hold),
    renew: (holds) => harmless(() => store.renew(holds)),
    release: async (holds, process) => {
      let ambiguous = false
      const results = await idempotent(async () => {
        try {
          return await store.release(holds, process)
        } catch (error) {
          ambiguous ||= error instanceof DatabaseError && error.failure === 'connection'
          throw error
        }
      })
      // Not ours after an attempt that may have worked: it did work. Whoever waits will look.
      return ambiguous
        ? results.map((result) => (result.outcome === 'lost' ? { ...result, outcome: 'released' } : result))
        : results
    },
    guard: (tx, holds) => store.guard(tx, holds),
    ...(assertOpen && { assertOpen: assertOpen.bind(store) }),
    query: (tx, query) => store.query(tx, query),
    ...(guardedQuery && { guardedQuery: guardedQuery.bind(store) }),
    inspect: (name) => idempotent(() => store.inspect(name)),
    list: (prefix) => idempotent(() => store.list(prefix)),
    forceRelease: (name) => idempotent(() => store.forceRelease(name)),
    purge: (idleMs) => harmless(() => store.purge(idleMs)),
    openSession: (onLost) => boundedSession(store.openSession(onLost), timeoutMs),
    ...(listen && {
      listen: (process, onGrant, onLost) => boundedSession(listen.call(store, process, onGrant, onLost), timeoutMs),
    }),
    ...(assess && { assess: () => idempotent(() => assess.call(store)) }),
    ...(changingFile && { changingFile: changingFile.bind(store) }),
    migrate: () => onConflict(() => store.migrate()),
  }
}

const FIRST_BACKOFF_MS = 50
const LONGEST_BACKOFF_MS = 1000

/** How long to pause after so many failures in a row, in milliseconds. */
export function backoff(failures: number): number {
  return Math.min(LONGEST_BACKOFF_MS, FIRST_BACKOFF_MS * 2 ** (failures - 1)) * (0.5 + Math.random() / 2)
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

async function boundedSession<
  Session extends { ping?(): Promise<unknown>; drop?(): Promise<void>; close(): Promise<void> },
>(opening: Promise<Session>, timeoutMs: number): Promise<Session> {
  const session = await openedInTime(opening, timeoutMs)
  return {
    ...session,
    ...(session.ping && { ping: () => bounded(session.ping!(), timeoutMs) }),
    close: () => bounded(session.close(), timeoutMs),
  }
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

async function repeat<T>(call: () => Promise<T>, timeoutMs: number, connectionRetries: number): Promise<T> {
  let broken = 0
  const mayRepeat = (error: unknown) => {
    if (!(error instanceof DatabaseError)) return false
    if (error.failure === 'conflict') return true
    return error.failure !== 'other' && ++broken <= connectionRetries
  }
  try {
    // Almost all calls work at once, and need no machinery.
    return await call()
  } catch (error) {
    if (!mayRepeat(error)) throw error
  }
  return pRetry(call, {
    retries: Number.POSITIVE_INFINITY,
    maxRetryTime: timeoutMs,
    minTimeout: PAUSE_MS,
    factor: 1,
    randomize: true,
    shouldRetry: ({ error }) => mayRepeat(error),
  })
}

/** Settles with `promise`, or rejects after `timeoutMs`; what comes later is not looked at. */
export async function bounded<T>(promise: Promise<T>, timeoutMs: number): Promise<T> {
  let timer: NodeJS.Timeout | undefined
  const timeout = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(noAnswer(timeoutMs)), timeoutMs)
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
    `no answer within ${timeoutMs} ms (${limit}): the database does not respond, or the pool has no free connection. If this was called inside a transaction that holds the pool's last connection, pass that transaction or enlarge the pool`,
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
