import { sql } from 'kysely'
import type { Result, Statement } from '../../adapters/adapter.ts'
import { acquire as decide, kindOf, type LockRow, suits, type World } from '../../protocol/lock-row.ts'
import type { Attempt, AttemptResult, Store } from '../../protocol/store.ts'
import { databaseError } from '../failures.ts'
import { ofEachKind } from '../kinds.ts'
import { byItsName, type Context, inBatches } from './context.ts'
import { errnoOf, LOCK_WAIT_TIMEOUT } from './errors.ts'
import { ASKED, BATCH, batched, type Fragments, limited, now } from './fragments.ts'
import { A_MOMENT, isLocked } from './row-waits.ts'
import { rowMaker } from './semaphores.ts'
import { type AskedAttempt, bytes, type Row, toAskedAttempt, tokenOf } from './values.ts'

export function acquireStatements({ locks, askedLocks, unshared }: Fragments) {
  // Not IGNORE: it locks the row that is in its way shared at first, and two of them, at a row just purged, deadlock. These
  // do so hardly ever, and are repeated.
  const create = batched<AskedAttempt>(sql`
        insert into ${locks} (name, owner, token, expires_at, holder, session)
        select asked.name, asked.owner, last_insert_id(${now}), ${now} + asked.ttl * 1000, asked.holder, asked.session
        from ${ASKED} as asked
        on duplicate key update token = token + 0 * last_insert_id(0)`)

  return {
    // WHO GETS THE LOCK: the WHERE of `free` decides. insertId is the token; negative if the last holder had not released. 0 if
    // one has left a checkpoint: then the row tells.
    acquire: batched<AskedAttempt>(sql`
        update (
          select l.name, asked.owner, asked.ttl, asked.holder, asked.session,
                 case when l.owner = asked.owner then l.token else greatest(l.token + 1, ${now}) end as next_token,
                 case when l.owner = asked.owner then l.takeover else l.owner is not null end as takeover, l.checkpointed
          from ${askedLocks}
          where l.owner = asked.owner
             or l.queue is null and ${unshared} and (l.expires_at <= ${now} or l.session = asked.deadSession)
          limit ${sql.lit(BATCH)}
          for update skip locked
        ) as free
        straight_join ${locks} as l force index (primary) on l.name = free.name
        set l.owner = case when free.ttl is not null then free.owner end,
            l.token = free.next_token,
            l.expires_at = ${now} + coalesce(free.ttl, 0) * 1000
              + 0 * last_insert_id((1 - free.checkpointed) * case when free.takeover = 1 then -free.next_token else free.next_token end),
            l.holder = free.holder, l.session = free.session, l.handed_to = null, l.takeover = free.takeover`),

    // MySQL cannot limit how long an INSERT waits for a transaction that has created the row, and is open.
    create,

    createInMariadb: (asked: readonly AskedAttempt[], limits: string): Statement => limited(create(asked), limits),
  }
}

export function acquire(context: Context<never>): Store<never>['acquire'] {
  const onPool = acquireOver(context, (query) => context.runner.run(query))
  const onOwn = acquireOver(context, (query) => context.runner.keep(query))
  return (attempts, beside) => (beside ? onOwn(attempts) : onPool(attempts))
}

function acquireOver(
  { server, fragments, read, steps }: Context<never>,
  send: (query: Statement) => Promise<Result>,
): (attempts: readonly Attempt[]) => Promise<AttemptResult[]> {
  const statements = acquireStatements(fragments)
  const makeRow = rowMaker({ server, fragments })

  async function acquireBatch(attempts: readonly Attempt[]): Promise<AttemptResult[]> {
    const answers = new Map<string, AttemptResult>()
    const rows = await take(attempts, () => null, answers)
    const refused = attempts.filter(({ name }) => answers.get(name)?.granted !== true)
    const abandoned = refused.filter(({ name }) => rows.get(name)?.sessionGone)
    if (abandoned.length > 0) await take(abandoned, ({ name }) => rows.get(name)!.session, answers)
    const missing = refused.filter(({ name }) => !rows.has(name))
    if (missing.length > 0) await create(missing, answers)
    for (const attempt of refused.filter(({ name }) => rows.get(name)?.shared)) {
      const [answer] = (await step(attempt.name, [attempt])) ?? [REFUSED]
      answers.set(attempt.name, answer!)
    }
    return attempts.map(({ name }) => answers.get(name)!)
  }

  /**
   * All of one name together: others could else come in between, and each would have to wait for the one before. Null if there
   * is no row.
   */
  function step(name: string, attempts: readonly Attempt[]): Promise<readonly AttemptResult[] | null> {
    return steps.step<readonly AttemptResult[] | null>(name, null, (row, world) => decideAll(row, attempts, world), {
      send,
      failsIfOvertaken: true,
      renumbered: (results, tokens) => results && withTokens(results, tokens),
      slots: attempts.length,
    })
  }

  async function acquireShared(name: string, attempts: readonly Attempt[]): Promise<readonly AttemptResult[]> {
    const answers = await step(name, attempts)
    if (answers !== null) return answers
    const makes = attempts.find((attempt) => suits(attempt, attempt))
    // What cannot be had makes no row.
    if (makes === undefined) return attempts.map((attempt) => ({ ...REFUSED, kind: kindOf(attempt) }))
    try {
      await makeRow(send, { name: bytes(name), permits: makes.permits })
    } catch (error) {
      // Somebody has it who is seen by nobody yet.
      if (!isLocked(error)) throw error
    }
    return (await step(name, attempts)) ?? attempts.map(() => REFUSED)
  }

  /** Takes what is free, and answers the rows unless that is clear without them. */
  async function take(
    attempts: readonly Attempt[],
    deadSession: (attempt: Attempt) => Buffer | null,
    answers: Map<string, AttemptResult>,
  ): Promise<Map<string, Row>> {
    const sentAt = performance.now()
    const taken = await send(
      statements.acquire(attempts.map((attempt) => toAskedAttempt(attempt, deadSession(attempt)))),
    )
    if (attempts.length === 1 && tokenOf(taken) !== 0n) {
      answers.set(attempts[0]!.name, granted(tokenOf(taken)))
      return new Map()
    }
    const rows = await read(attempts)
    const elapsedMs = performance.now() - sentAt
    let seen = 0
    for (const attempt of attempts) {
      const result = judge(attempt, rows.get(attempt.name), elapsedMs)
      if (result.granted) seen++
      answers.set(attempt.name, result)
    }
    // Not the newest state, as of another node of a cluster: attempts may be repeated.
    if (seen < Number(taken.affectedRows)) throw databaseError('connection', new Error('the answer was out of date'))
    return rows
  }

  async function create(attempts: readonly Attempt[], answers: Map<string, AttemptResult>): Promise<void> {
    const { dialect } = await server.topology()
    const asked = attempts.map((attempt) => toAskedAttempt(attempt, null))
    const sentAt = performance.now()
    let created: Result
    try {
      created = await send(
        dialect === 'mariadb' ? statements.createInMariadb(asked, A_MOMENT) : statements.create(asked),
      )
    } catch (error) {
      if (dialect !== 'mariadb' || errnoOf((error as Error).cause) !== LOCK_WAIT_TIMEOUT) throw error
      // Somebody has one of them, who is seen by nobody yet: they are refused, and the others tried by themselves.
      if (attempts.length > 1) for (const attempt of attempts) await create([attempt], answers)
      return
    }
    if (attempts.length === 1) {
      if (tokenOf(created) !== 0n) answers.set(attempts[0]!.name, granted(tokenOf(created)))
      return
    }
    const rows = await read(attempts)
    const elapsedMs = performance.now() - sentAt
    for (const attempt of attempts) answers.set(attempt.name, judge(attempt, rows.get(attempt.name), elapsedMs))
  }

  return (attempts) =>
    ofEachKind(
      attempts,
      (attempt): attempt is Attempt => attempt.weight !== null,
      (shared) => byItsName(shared, acquireShared),
      (exclusive) => inBatches(exclusive, acquireBatch),
    )
}

/** With the tokens that the holds which are new turned out to have. */
function withTokens(
  results: readonly AttemptResult[],
  { planned, first }: { readonly planned: bigint; readonly first: bigint },
): readonly AttemptResult[] {
  return results.map((result) =>
    result.granted && result.token >= planned ? { ...result, token: result.token - planned + first } : result,
  )
}

/** One after the other, in one step. */
function decideAll(row: LockRow, attempts: readonly Attempt[], world: World) {
  let after = row
  const reply = attempts.map((attempt) => {
    const step = decide(after, attempt, world)
    after = step.row
    return step.reply
  })
  return { row: after, reply, grants: [] }
}

const REFUSED: AttemptResult = { granted: false, holders: [], queued: false }
const OURS: AttemptResult = { granted: false, holders: [], queued: false, ours: true }

function judge(attempt: Attempt, row: Row | undefined, elapsedMs: number): AttemptResult {
  if (row === undefined) return REFUSED
  // It was granted now if no more of the ttl is gone than it took since.
  if (row.owner === attempt.owner && row.remainingMs >= (attempt.ttlMs ?? 0) - elapsedMs) {
    return { granted: true, token: row.token, takeover: row.takeover, checkpointed: row.checkpointed }
  }
  if (row.owner === attempt.owner) return OURS
  return row.held
    ? { granted: false, holders: [row.label], queued: false }
    : { granted: false, holders: [], queued: row.awaited }
}

function granted(token: bigint): AttemptResult {
  return { granted: true, token: token < 0n ? -token : token, takeover: token < 0n, checkpointed: false }
}
