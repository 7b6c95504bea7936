import { sql } from 'kysely'
import { type GuardResult, type Hold, isShared, type SharedHold, type Store } from '../../protocol/store.ts'
import { noTransaction } from '../failures.ts'
import { ofEachKind } from '../kinds.ts'
import { type Context, inBatches } from './context.ts'
import { BATCH, batched, type Fragments, now } from './fragments.ts'
import { tokenAfter } from './token-after.ts'
import { type AskedLease, type AskedSlot, toAskedLease, toAskedSlot, tokenOf } from './values.ts'

export function guardStatements({ askedLocks, askedSlots }: Fragments) {
  return {
    // A write, not a locking read: on Galera and in multi-primary groups only a write takes part in certification. It waits
    // for the rows, one by one in the order of `asked`.
    guard: batched<AskedLease>(sql`
        update ${askedLocks}
        set l.expires_at = greatest(l.expires_at, ${now} + asked.ttl * 1000) + 0 * last_insert_id(l.token),
            l.handed_to = null
        where l.owner = asked.owner and l.token = asked.token and l.expires_at > ${now}`),

    // Of a shared hold, its slot: guards of others that share it have their own.
    guardSlots: batched<AskedSlot & { ttl: number }>(sql`
        update ${askedSlots}
        set s.expires_at = greatest(s.expires_at, ${now} + asked.ttl * 1000) + 0 * last_insert_id(s.token),
            s.handed_to = null
        where s.owner = asked.owner and s.token = asked.token and s.expires_at > ${now}`),
  }
}

export function guard<Tx>(context: Context<Tx>): Pick<Store<Tx>, 'guard' | 'query'> {
  const { adapter, runner, fragments } = context
  const statements = guardStatements(fragments)

  async function guardBatch(tx: Tx, holds: readonly (Hold & { readonly ttlMs: number })[]): Promise<GuardResult[]> {
    const result = await runner.runIn(tx, statements.guard(holds.map(toAskedLease)), (answer) => answer)
    if (result.inTransaction === false) throw noTransaction('guard(tx)')
    if (holds.length === 1) return [(await tokenAfter(context, tx, holds[0]!.name, result)) === 0n ? 'lost' : 'stands']
    if (Number(result.affectedRows) === holds.length) return holds.map(() => 'stands')
    const results: GuardResult[] = []
    for (const hold of holds) results.push(...(await guardBatch(tx, [hold])))
    return results
  }

  type Lease = Hold & { readonly ttlMs: number }

  async function guardSlots(tx: Tx, holds: readonly (Lease & SharedHold)[]): Promise<GuardResult[]> {
    const asked = holds.map((hold) => ({ ...toAskedSlot(hold), ttl: hold.ttlMs }))
    const result = await runner.runIn(tx, statements.guardSlots(asked), (answer) => answer)
    if (result.inTransaction === false) throw noTransaction('guard(tx)')
    const reached = Number(result.affectedRows ?? 0)
    if (holds.length === 1) {
      // Of a driver that does not tell what last_insert_id() was set to, affectedRows counts what was reached.
      return [tokenOf(result) !== 0n || (adapter.tellsNoInsertId === true && reached > 0) ? 'stands' : 'lost']
    }
    if (reached === holds.length) return holds.map(() => 'stands')
    const results: GuardResult[] = []
    for (const hold of holds) results.push(...(await guardSlots(tx, [hold])))
    return results
  }

  /** In one order, so that two transactions that guard the same do not wait in a circle. */
  async function guardShared(tx: Tx, holds: readonly (Lease & SharedHold)[]): Promise<GuardResult[]> {
    const sorted = [...holds].sort((a, b) => (a.name === b.name ? a.slot - b.slot : a.name < b.name ? -1 : 1))
    const results = new Map<Hold, GuardResult>()
    for (let from = 0; from < sorted.length; from += BATCH) {
      const some = sorted.slice(from, from + BATCH)
      for (const [index, result] of (await guardSlots(tx, some)).entries()) results.set(some[index]!, result)
    }
    return holds.map((hold) => results.get(hold)!)
  }

  return {
    guard: (tx, holds) =>
      ofEachKind(
        holds,
        isShared,
        (shared) => guardShared(tx, shared),
        (exclusive) => inBatches(exclusive, (batch) => guardBatch(tx, batch)),
      ),

    async query(tx, query) {
      return (await adapter.queryIn(tx, { ...query, callers: true })).rows
    },
  }
}
