import { sql } from 'kysely'
import type { Statement } from '../../adapters/adapter.ts'
import { toNumber } from '../../adapters/shape.ts'
import * as lockRow from '../../protocol/lock-row.ts'
import type { LockState, Store } from '../../protocol/store.ts'
import { statement } from '../statement.ts'
import { type Context, inBatches } from './context.ts'
import { ALL, BATCH, batched, engine, type Fragments, now } from './fragments.ts'
import { markPurger } from './marks.ts'
import { bytes, text, tokenOf, toView } from './values.ts'
import { waitPurger } from './waits.ts'
import { toLockView, toWholes, unlocked, type Whole, wholeOf } from './whole.ts'

export function administrationStatements(fragments: Fragments) {
  const { locks, slots, askedLocks, isHeld, nobodyIsAlive } = fragments
  return {
    list: statement<{ prefix: Buffer }>(engine, (p) =>
      wholeOf(fragments)(
        sql`left(l.name, length(${p.prefix})) = ${p.prefix} and (l.used > 0 or ${isHeld})`,
        sql`left(s.name, length(${p.prefix})) = ${p.prefix} and s.weight > 0`,
      ),
    ),

    forceRelease: statement<{ name: Buffer; token: bigint | null }>(
      engine,
      (p) => sql`
        update (
          select name, greatest(token + 1, ${now}) as next_token
          from ${locks} force index (primary)
          where name = ${p.name} and owner is not null and expires_at > ${now} and (${p.token} is null or token = ${p.token})
          limit 1
          for update skip locked
        ) as held
        straight_join ${locks} as l force index (primary) on l.name = held.name
        set l.owner = null, l.session = null, l.handed_to = null, l.token = held.next_token,
            l.expires_at = ${now} + 0 * last_insert_id(held.next_token)`,
    ),

    // A row whose token is ahead of the clock stays: a new row of that name would start at the clock, below it.
    purgeable: statement<{ idleMs: number }>(
      engine,
      (p) => sql`
        select l.name, l.used > 0 or exists (select 1 from ${slots} as s where s.name = l.name) as has_slots
        from ${locks} as l
        where l.expires_at <= ${now} - ${p.idleMs} * 1000 and l.token < ${now} and ${nobodyIsAlive}
        order by l.name
        limit ${sql.lit(ALL)}`,
    ),

    purge: batched<{ name: Buffer; idleMs: number }>(sql`
        delete l from (
          select asked.name
          from ${askedLocks}
          where l.expires_at <= ${now} - asked.idleMs * 1000 and l.token < ${now} and ${nobodyIsAlive} and l.used = 0
          limit ${sql.lit(BATCH)}
          for update skip locked
        ) as idle
        straight_join ${locks} as l force index (primary) on l.name = idle.name`),

    // Each with its slots, of which none takes anything, and none is locked.
    purgeWithSlots: batched<{ name: Buffer; idleMs: number; slot: number; most: number }>(sql`
        delete l, s from (
          select each_slot.*, count(*) over () as found
          from (
            select asked.*
            from ${askedLocks}
            straight_join ${slots} as s force index (primary) on s.name = asked.name and s.slot = asked.slot
            where l.expires_at <= ${now} - asked.idleMs * 1000 and l.token < ${now} and ${nobodyIsAlive} and l.used = 0
            limit ${sql.lit(ALL)}
            for update skip locked
          ) as each_slot
        ) as idle
        straight_join ${locks} as l force index (primary) on l.name = idle.name
        straight_join ${slots} as s force index (primary) on s.name = idle.name and s.slot = idle.slot
        where idle.found = idle.most`),
  }
}

export function administration({
  runner,
  fragments,
  read,
  steps,
}: Context<never>): Pick<Store<never>, 'poll' | 'inspect' | 'list' | 'forceRelease' | 'purge'> {
  const statements = administrationStatements(fragments)
  const purgeWaits = waitPurger({ runner, fragments })
  const purgeMarks = markPurger({ runner, fragments })

  /** What is shared is taken off first by whoever is the next to take the lock; here nobody is. */
  async function purgeShared(name: string, idleMs: number): Promise<void> {
    const isIdle = await steps.step(name, false, (row, world) => {
      const isIdle = !world.locked && lockRow.isPurgeable(row, idleMs, world)
      const ends = row.holders.map(({ expiresAt }) => expiresAt)
      const free = { ...row, holders: [], idleSince: Math.max(row.idleSince, ...ends) }
      return { row: isIdle && row.holders.length > 0 ? free : row, reply: isIdle, grants: [] }
    })
    const slots = [...((await steps.read([{ name }])).get(name)?.slots.keys() ?? [])].sort((a, b) => a - b)
    if (!isIdle || slots.length === 0) return
    const asked = slots.map((slot) => ({ name: bytes(name), idleMs, slot, most: slots.length }))
    await runner.run(statements.purgeWithSlots(asked))
  }

  return {
    async poll(names) {
      const rows = await inBatches(
        names.map((name) => ({ name })),
        async (batch) => {
          const found = await read(batch)
          const wholes = await steps.read([...found.values()].filter(({ shared }) => shared))
          return batch.map(({ name }) => {
            const row = found.get(name)
            const whole = wholes.get(name)
            return whole === undefined ? row && toView(row) : toLockView(whole)
          })
        },
      )
      return rows.filter((row) => row !== undefined)
    },

    async inspect(name, beside) {
      const send = (query: Statement) => (beside ? runner.keep(query) : runner.run(query))
      const whole = (await steps.read([{ name }], send)).get(name)
      return whole === undefined ? null : toState(whole)
    },

    async list(prefix) {
      const { rows } = await runner.run(statements.list({ prefix: bytes(prefix) }))
      return [...toWholes(rows).values()].map(toState).filter((state) => state !== null)
    },

    async forceRelease(name, token) {
      const forced = await runner.run(statements.forceRelease({ name: bytes(name), token: token ?? null }))
      if (tokenOf(forced) !== 0n) return 'released'
      const shared = (await read([{ name }])).get(name)?.shared
      if (shared) return steps.step(name, 'free', (row, world) => lockRow.forceRelease(row, token, world))
      const left = (await this.inspect(name))?.holders ?? []
      return left.some((holder) => token === undefined || holder.token === token) ? 'locked' : 'free'
    },

    async purge(idleMs) {
      await purgeWaits()
      const purgeable = async () => {
        const { rows } = await runner.run(statements.purgeable({ idleMs }))
        return rows.map(({ name, has_slots }) => ({ name: text(name), hasSlots: toNumber(has_slots) === 1 }))
      }
      const idle = await purgeable()
      const plain = idle.filter(({ hasSlots }) => !hasSlots)
      for (let from = 0; from < plain.length; from += BATCH) {
        await runner.run(
          statements.purge(plain.slice(from, from + BATCH).map(({ name }) => ({ name: bytes(name), idleMs }))),
        )
      }
      for (const { name, hasSlots } of idle) if (hasSlots) await purgeShared(name, idleMs)
      await purgeMarks(idleMs)
      const left = new Set((await purgeable()).map(({ name }) => name))
      return idle.filter(({ name }) => !left.has(name)).length
    },
  }
}

function toState({ row, world }: Whole): LockState | null {
  return lockRow.state(row, unlocked(world))
}
