import { sql } from 'kysely'
import type { Store } from '../../protocol/store.ts'
import { statement } from '../statement.ts'
import { type Context, inBatches } from './context.ts'
import { ALL, BATCH, batched, engine, type Fragments, now } from './fragments.ts'
import { bytes, text, tokenOf, toState, toView } from './values.ts'

export function administrationStatements({ locks, askedLocks, view, waiters, isHeld, nobodyIsAlive }: Fragments) {
  return {
    list: statement<{ prefix: Buffer }>(
      engine,
      (p) => sql`
        select ${view}, ${waiters} as waiters
        from ${locks} as l
        where left(l.name, length(${p.prefix})) = ${p.prefix} and ${isHeld}
        order by l.name
        limit ${sql.lit(ALL)}`,
    ),

    inspect: statement<{ name: Buffer }>(
      engine,
      (p) => sql`
        select ${view}, ${waiters} as waiters
        from ${locks} as l
        where l.name = ${p.name} and ${isHeld}`,
    ),

    forceRelease: statement<{ name: Buffer }>(
      engine,
      (p) => sql`
        update (
          select name, greatest(token + 1, ${now}) as next_token
          from ${locks} force index (primary)
          where name = ${p.name} and owner is not null and expires_at > ${now}
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
        select l.name
        from ${locks} as l
        where l.expires_at <= ${now} - ${p.idleMs} * 1000 and l.token < ${now} and ${nobodyIsAlive}
        order by l.name
        limit ${sql.lit(ALL)}`,
    ),

    purge: batched<{ name: Buffer; idleMs: number }>(sql`
        delete l from (
          select asked.name
          from ${askedLocks}
          where l.expires_at <= ${now} - asked.idleMs * 1000 and l.token < ${now} and ${nobodyIsAlive}
          limit ${sql.lit(BATCH)}
          for update skip locked
        ) as idle
        straight_join ${locks} as l force index (primary) on l.name = idle.name`),
  }
}

export function administration({
  runner,
  fragments,
  read,
}: Context<never>): Pick<Store<never>, 'poll' | 'inspect' | 'list' | 'forceRelease' | 'purge'> {
  const statements = administrationStatements(fragments)
  return {
    async poll(names) {
      const rows = await inBatches(
        names.map((name) => ({ name })),
        async (batch) => {
          const found = await read(batch)
          return batch.map(({ name }) => found.get(name))
        },
      )
      return rows.filter((row) => row !== undefined).map(toView)
    },

    async inspect(name) {
      const [row] = (await runner.run(statements.inspect({ name: bytes(name) }))).rows
      return row === undefined ? null : toState(row)
    },

    async list(prefix) {
      return (await runner.run(statements.list({ prefix: bytes(prefix) }))).rows.map(toState)
    },

    async forceRelease(name) {
      if (tokenOf(await runner.run(statements.forceRelease({ name: bytes(name) }))) !== 0n) return 'released'
      return (await this.inspect(name)) === null ? 'free' : 'locked'
    },

    async purge(idleMs) {
      const names = (await runner.run(statements.purgeable({ idleMs }))).rows.map((row) => bytes(text(row.name)))
      for (let from = 0; from < names.length; from += BATCH) {
        await runner.run(statements.purge(names.slice(from, from + BATCH).map((name) => ({ name, idleMs }))))
      }
      const left = (await runner.run(statements.purgeable({ idleMs }))).rows.length
      return Math.max(0, names.length - left)
    },
  }
}
