import { type Call, TIME_OUT } from './call.ts'
import { DatabaseError, type LockError, LockTimeoutError } from './errors.ts'
import type { Place, Queue } from './queue.ts'
import { randomHex } from './random.ts'
import type { LockRequest } from './request.ts'
import { backoff, noAnswer, untilUnlocked } from './retry.ts'
import type { Attempt, AttemptResult, Hold } from './store/store.ts'

export interface AcquireContext {
  readonly queue: Queue
  readonly holder: string
  readonly statementTimeoutMs: number
  attempt(attempt: Unsent): Promise<AttemptResult>
  /** Work that goes on after the caller has its answer. `close` waits for it. */
  background(during: string, work: Promise<unknown>): void
}

/**
 * An attempt that gets its owner id when it is sent, and keeps it: one that was granted unheard is recognised when it is
 * repeated, and leaves no ghost. Those that are sent together share one, which saves the database a list of them; with its
 * name, a hold's owner is still nobody else's.
 */
export interface Unsent extends Omit<Attempt, 'owner'> {
  owner: string | undefined
}

/** Gives those that are sent for the first time their owner id. */
export function sentTogether(attempts: readonly Unsent[]): readonly Attempt[] {
  const owner = randomHex(16)
  for (const attempt of attempts) attempt.owner ??= owner
  return attempts as readonly Attempt[]
}

export interface Granted extends Hold {
  readonly takeover: boolean
  /** performance.now() from before the granting request was sent. */
  readonly sentAt: number
  /** How long the hold lasts from then on. */
  readonly remainingMs: number
  /** It was handed over, and lasts for a moment only unless it is renewed. */
  readonly claim: boolean
  readonly waitedMs: number
}

/** Beyond its wait, an acquire may take this long to find out what the database says. */
const ANSWER_MS = 1000
/** Attempts that fail are repeated at least this often, however short the wait, if there is time to answer. */
const TRIES_AGAINST_FAILURES = 3
/** A row of ours that another statement has locked is free again a moment later. */
const LOCKED_ROW_PAUSE_MS = 5

/** How long a call may take, whatever keeps the database from answering: a try (null) waits for one statement only. */
export class AnswerBound {
  readonly #statementTimeoutMs: number
  readonly #limitMs: number
  /** A time of performance.now(). */
  readonly started = performance.now()

  constructor(waitMs: number | null, statementTimeoutMs: number) {
    this.#statementTimeoutMs = statementTimeoutMs
    this.#limitMs = waitMs === null ? statementTimeoutMs : waitMs + ANSWER_MS
  }

  get leftMs(): number {
    return Math.max(0, this.started + this.#limitMs - performance.now())
  }

  /** For one statement. */
  get patienceMs(): number {
    return Math.min(this.#statementTimeoutMs, this.leftMs)
  }

  /** Nothing was heard. Of the two limits the shorter one is told. */
  noAnswer(): DatabaseError {
    return this.#limitMs < this.#statementTimeoutMs
      ? noAnswer(this.#limitMs, 'the wait and a second more')
      : noAnswer(this.#statementTimeoutMs)
  }

  /** What `promise` resolves with in time. */
  async race<T>(call: Call, promise: Promise<T>): Promise<T> {
    const answer = await call.race(promise, this.leftMs)
    if (answer === TIME_OUT) throw this.noAnswer()
    return answer
  }
}

/**
 * The one waiting loop: attempt, and if somebody holds the lock, line up and wait for it to be handed over, the deadline or
 * an abort. Resolves with null if `waitMs` is null (a try) and somebody holds the lock.
 */
export async function acquire(
  context: AcquireContext,
  call: Call,
  request: LockRequest,
  waitMs: number | null,
  session: string | null,
  bound: AnswerBound,
): Promise<Granted | null> {
  const { queue, holder: ourselves } = context
  const { name } = request
  const { started } = bound
  const deadline = started + (waitMs ?? 0)
  const ttlMs = Math.min(request.ttlMs, request.maxHoldMs)
  const attempt: Unsent = { name, owner: undefined, session, ttlMs, holder: ourselves }
  const waits = waitMs !== null && waitMs > 0
  let place: Place | undefined
  let attempting = false
  let answer: Promise<AttemptResult> | undefined
  /** Answers that nobody waits for any more: after an abort, a timeout or a broken connection they, or a grant, may still be on their way. */
  let unheard: Promise<AttemptResult>[] | undefined
  let failures = 0
  let unexplained = 0
  /** Whether the database has said anything of this lock: what nobody is known to hold has not been waited for. */
  let answered = false
  let holder: string | null = null

  try {
    for (;;) {
      try {
        if (!waits || attempting || !queue.contended(name)) {
          attempting = waits
          if (attempting) queue.beginAttempt(name)
          const sentAt = performance.now()
          answer = context.attempt(attempt)
          const result = await call.race(answer, bound.patienceMs)
          if (result === TIME_OUT) throw bound.noAnswer()
          answer = undefined
          answered = true
          if (attempting) queue.attemptAnswered(name)
          if (result.granted) {
            unheard = undefined
            const { token, takeover } = result
            const owner = attempt.owner!
            const waitedMs = performance.now() - started
            return { name, owner, token, takeover, sentAt, remainingMs: ttlMs, claim: false, waitedMs }
          }
          if (result.ours === true) {
            if (bound.leftMs === 0) throw bound.noAnswer()
            await call.race(undefined, LOCKED_ROW_PAUSE_MS)
            continue
          }
          // Nobody can be seen to hold it, so a transaction has the row locked: as our own attempt might that had no answer.
          if (unheard !== undefined && result.holder === null && !result.queued) throw bound.noAnswer()
          failures = 0
          holder = result.holder
          // Whom it should have gone to is dead.
          if (result.queued && (await call.race(queue.settle(name), bound.patienceMs)) === 'idle') continue
          // Nobody was seen to hold it, as when its row was purged at that very moment: look again, once.
          if (holder === null && !result.queued && ++unexplained === 1) continue
        }
        if (waitMs === null) return null
        const leftMs = Math.max(0, deadline - performance.now())
        if (leftMs === 0 && (answered || failures > 0)) throw timeUp()
        place = queue.join(name, { ttlMs, session }, leftMs, attempting)
        if (attempting) queue.endAttempt(name)
        attempting = false
        const served = await call.race(place.served, leftMs)
        // Whether somebody holds it has to be known, or the caller would be told of the wrong thing.
        if (served === TIME_OUT && !answered && !place.answered) {
          await call.race(Promise.race([place.whenAnswered(), place.served]), bound.patienceMs)
        }
        const handed = served === TIME_OUT ? await call.race(queue.giveUp(place), bound.patienceMs) : served
        holder = place.holder ?? holder
        answered ||= place.answered
        if (handed !== undefined && handed !== TIME_OUT) {
          place = undefined
          return { ...handed, claim: true, waitedMs: performance.now() - started }
        }
        if (served === TIME_OUT) throw timeUp()
      } catch (error) {
        const failure = error instanceof DatabaseError ? error.failure : 'other'
        if (answer !== undefined && (call.cancelled || failure === 'connection')) {
          unheard ??= []
          unheard.push(answer)
        }
        answer = undefined
        failures++
        const pauseMs = backoff(failures)
        const mayRepeat = performance.now() < deadline || failures < TRIES_AGAINST_FAILURES
        if (failure === 'other' || !mayRepeat || pauseMs >= bound.leftMs) throw error
        if (attempting) queue.endAttempt(name)
        attempting = false
        await call.race(undefined, pauseMs)
      }
    }
  } finally {
    if (place !== undefined) queue.leave(place)
    if (attempting) queue.endAttempt(name)
    if (unheard !== undefined) {
      context.background('giving back a lock granted too late', giveBack(context, attempt, unheard))
    }
  }

  function timeUp(): LockError {
    return answered ? new LockTimeoutError(name, performance.now() - started, holder ?? undefined) : bound.noAnswer()
  }
}

/** Gives back what an attempt was granted unheard. */
async function giveBack(
  { queue, statementTimeoutMs, attempt: ask }: AcquireContext,
  attempt: Unsent,
  unheard: readonly Promise<AttemptResult>[],
): Promise<void> {
  let given: (AttemptResult & { readonly granted: true }) | undefined
  let isInDoubt = false
  for (const answer of await Promise.allSettled(unheard)) {
    if (answer.status === 'rejected') isInDoubt ||= isUnknown(answer.reason)
    else if (answer.value.granted) given = answer.value
    else isInDoubt ||= answer.value.ours === true
  }
  if (given === undefined && !isInDoubt) return
  // Somebody else's statement can have the row locked at that very moment.
  await untilUnlocked(async () => {
    // Asked once more, by the owner id that the lost attempt had.
    const result = given ?? (await ask({ ...attempt, ttlMs: 1000 }))
    if (!result.granted) return result.ours !== true
    const { name, owner } = attempt
    return (await queue.release({ name, owner: owner!, token: result.token })) !== 'locked'
  }, statementTimeoutMs)
}

/** Whether a statement that failed so may have worked. */
function isUnknown(error: unknown): boolean {
  return !(error instanceof DatabaseError) || error.failure === 'connection'
}
