import { sql } from 'kysely'
import type { Statement } from '../../adapters/adapter.ts'
import { toNumber } from '../../adapters/shape.ts'
import { wasHandedOver } from '../../protocol/ids.ts'
import * as lockRow from '../../protocol/lock-row.ts'
import {
  type GuardResult,
  type Hold,
  isShared,
  type ReleaseResult,
  type SharedHold,
  type Store,
} from '../../protocol/store.ts'
import { noTransaction } from '../failures.ts'
import { ofEachKind } from '../kinds.ts'
import { statement } from '../statement.ts'
import { byItsName, type Context, inBatches } from './context.ts'
import { BATCH, batched, engine, type Fragments, now } from './fragments.ts'
import { handOverFor, type Promoter } from './promote.ts'
import { stepStatements } from './steps.ts'
import { tokenAfter } from './token-after.ts'
import {
  type AskedHold,
  type AskedSlot,
  bytes,
  isOurs,
  isSameHold,
  type Row,
  toAskedHold,
  toAskedSlot,
  toGrants,
  tokenOf,
} from './values.ts'

export function releaseStatements(fragments: Fragments) {
  const { locks, slots, askedLocks } = fragments
  const handOver = handOverFor(fragments)
  return {
    // Where nobody waits. It leaves the queue alone, since MariaDB has joined updates of long texts go through the disk.
    release: batched<AskedHold>(sql`
        update (
          select l.name
          from ${askedLocks}
          where l.owner = asked.owner and l.token = asked.token and l.queue is null
          limit ${sql.lit(BATCH)}
          for update skip locked
        ) as mine
        straight_join ${locks} as l force index (primary) on l.name = mine.name
        set l.owner = null, l.session = null, l.handed_to = null, l.expires_at = least(l.expires_at, ${now})`),

    handOver: handOver<AskedHold>(sql`l.owner = asked.owner and l.token = asked.token`, sql`0`),

    releaseIn: statement<AskedHold>(
      engine,
      (p) => sql`
        update ${locks}
        set owner = null, session = null, handed_to = null,
            expires_at = least(expires_at, ${now})
              + 0 * last_insert_id(case when queue is null then token else -token end)
        where name = ${p.name} and owner = ${p.owner} and token = ${p.token}`,
    ),

    // What it takes counts until the transaction ends, as nobody else can lock the slot; then it is taken off by whoever
    // changes the lock next.
    releaseSlotIn: statement<AskedSlot>(
      engine,
      (p) => sql`
        update ${slots}
        set owner = null, session = null, handed_to = null, expires_at = least(expires_at, ${now})
        where name = ${p.name} and slot = ${p.slot} and owner = ${p.owner} and token = ${p.token}`,
    ),

    // The same, if it has not run out.
    adoptIn: statement<AskedSlot>(
      engine,
      (p) => sql`
        update ${slots}
        set owner = null, session = null, handed_to = null, expires_at = least(expires_at, ${now})
        where name = ${p.name} and slot = ${p.slot} and owner = ${p.owner} and token = ${p.token} and expires_at > ${now}`,
    ),

    awaited: statement<{ name: Buffer }>(
      engine,
      (p) => sql`select queue is not null as awaited from ${locks} where name = ${p.name}`,
    ),
  }
}

const LOST: ReleaseResult = { outcome: 'lost', handedOver: false, grants: [], promoteLater: false }
const LOCKED: ReleaseResult = { ...LOST, outcome: 'locked' }
const RELEASED: ReleaseResult = { ...LOST, outcome: 'released' }

export function release<Tx>(
  context: Context<Tx>,
  promotion: Promoter,
): Pick<Store<Tx>, 'release' | 'releaseIn' | 'adoptIn'> {
  const { adapter, runner, fragments, read, steps, own } = context
  const statements = releaseStatements(fragments)
  const { endInSlot } = stepStatements(fragments)

  async function releaseBatch(holds: readonly Hold[]): Promise<ReleaseResult[]> {
    const [only] = holds
    if (holds.length === 1) return [await releaseOne(only!)]
    // Looked at before as well, since the row of a lock that went on does not tell who gave it on.
    const before = await read(holds)
    const ours = holds.filter((hold) => isOurs(hold, before))
    if (ours.length === 0) return holds.map(() => LOST)
    const after = (await releaseAll(ours, before)) ? new Map<string, Row>() : await read(ours)
    return holds.map((hold) => {
      if (!isOurs(hold, before)) return LOST
      if (isOurs(hold, after)) return LOCKED
      const row = after.get(hold.name)
      if (row === undefined) return RELEASED
      const handedOver = row.token > hold.token
      return { ...RELEASED, handedOver, grants: toGrants(row), promoteLater: !handedOver && row.awaited }
    })
  }

  /** Answers whether all of them are released, and handed over to nobody. */
  async function releaseAll(holds: readonly Hold[], rows: ReadonlyMap<string, Row>): Promise<boolean> {
    const asked = holds.map(toAskedHold)
    if (!holds.some(({ name }) => rows.get(name)!.awaited)) {
      const { affectedRows } = await runner.keep(statements.release(asked))
      if (Number(affectedRows) === holds.length) return true
    }
    await runner.keep(statements.handOver(asked))
    return false
  }

  async function releaseOne(hold: Hold): Promise<ReleaseResult> {
    // Others will wait, too, for a lock that had to be waited for.
    if (!wasHandedOver(hold)) {
      const released = await runner.keep(statements.release([toAskedHold(hold)]))
      if (Number(released.affectedRows) > 0) return RELEASED
    }
    const result = await runner.keep(statements.handOver([toAskedHold(hold)]))
    if (Number(result.affectedRows) === 0) return isOurs(hold, await read([hold])) ? LOCKED : LOST
    const token = tokenOf(result)
    return { ...RELEASED, handedOver: token > 0n, promoteLater: token < 0n }
  }

  /** In two steps if the first one in the queue is dead, or shares it: it is free in between, but nobody can barge. */
  async function handOn(holds: readonly Hold[], results: readonly ReleaseResult[]): Promise<ReleaseResult[]> {
    const promoted: ReleaseResult[] = []
    for (const [index, result] of results.entries()) {
      if (!result.promoteLater) {
        promoted.push(result)
        continue
      }
      const { outcome, grants } = await promotion.step(holds[index]!.name)
      promoted.push({ ...RELEASED, handedOver: outcome === 'handed over', grants, promoteLater: outcome === 'locked' })
    }
    return promoted
  }

  /** All of one name in one step; where the lock's row is locked, each ends in its slot. */
  async function releaseShared(name: string, holds: readonly SharedHold[]): Promise<readonly ReleaseResult[]> {
    const lost = holds.map(() => LOST)
    const results = await steps.step<readonly ReleaseResult[] | 'locked'>(
      name,
      lost,
      (row, world) => {
        if (world.locked) return { row, reply: 'locked', grants: [] }
        let after = row
        const reply = holds.map((hold) => {
          const step = lockRow.release(after, hold, world)
          // What a transaction has locked cannot be changed.
          if (step.reply.outcome === 'released' && world.protects(hold.slot)) return LOCKED
          after = step.row
          return step.reply
        })
        return { row: after, reply, grants: [] }
      },
      { renumbered: (reply) => reply },
    )
    if (results !== 'locked') return results
    const ended: ReleaseResult[] = []
    for (const hold of holds) ended.push(await endShared(hold))
    return ended
  }

  async function endShared(hold: SharedHold): Promise<ReleaseResult> {
    const { affectedRows } = await runner.keep(endInSlot(toAskedSlot(hold)))
    const found = (await steps.read([hold])).get(hold.name)
    if (Number(affectedRows) > 0) return { ...RELEASED, promoteLater: (found?.row.queue.length ?? 0) > 0 }
    return found?.row.holders.some((holder) => isSameHold(holder, hold)) ? LOCKED : LOST
  }

  /** Whether that was one of ours, which has ended with it. */
  async function endIn(tx: Tx, query: Statement, verb: string): Promise<boolean> {
    // Asked beforehand: what has committed cannot be taken back.
    await runner.runIn(tx, { text: 'do 0', values: [] }, ({ inTransaction }) => {
      if (inTransaction === false) throw noTransaction(verb)
    })
    return runner.runIn(tx, query, ({ affectedRows }) => Number(affectedRows ?? 0) > 0)
  }

  return {
    release: (holds) =>
      ofEachKind(
        holds,
        isShared,
        (shared) => byItsName(shared, releaseShared),
        (exclusive) => inBatches(exclusive, async (batch) => handOn(batch, await releaseBatch(batch))),
      ),

    async adoptIn(tx, hold): Promise<GuardResult> {
      if (!isShared(hold)) return 'lost'
      return (await endIn(tx, statements.adoptIn(toAskedSlot(hold)), 'within(tx)')) ? 'stands' : 'lost'
    },

    async releaseIn(tx, hold) {
      if (isShared(hold)) {
        if (!(await endIn(tx, statements.releaseSlotIn(toAskedSlot(hold)), 'release(tx)'))) return 'lost'
        // Not asked in the transaction, as that would fix its snapshot.
        const rows = await own.outside(() => read([hold]))
        return { awaited: rows?.get(hold.name)?.awaited ?? true }
      }
      // Asked beforehand: a release that has committed cannot be taken back.
      await runner.runIn(tx, { text: 'do 0', values: [] }, ({ inTransaction }) => {
        if (inTransaction === false) throw noTransaction('release(tx)')
      })
      const result = await runner.runIn(tx, statements.releaseIn(toAskedHold(hold)), (answer) => answer)
      const token = await tokenAfter(context, tx, hold.name, result)
      if (token === 0n) return 'lost'
      if (adapter.tellsNoInsertId !== true) return { awaited: token < 0n }
      const query = statements.awaited({ name: bytes(hold.name) })
      return runner.runIn(tx, query, ({ rows: [row] }) => ({ awaited: toNumber(row?.awaited) === 1 }))
    },
  }
}
