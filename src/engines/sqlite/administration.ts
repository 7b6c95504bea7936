import { sql } from 'kysely'
import { DatabaseError } from '../../base/errors.ts'
import type { Store } from '../../protocol/store.ts'
import { statement } from '../statement.ts'
import type { Context } from './context.ts'
import { clockToken, engine, type Fragments, free, now } from './fragments.ts'
import { toState, toView } from './rows.ts'

export function administrationStatements({ locks, waiters, view }: Fragments) {
  return {
    poll: statement<{ names: string }>(
      engine,
      (p) => sql`
        select ${view}
        from ${locks}
        where name in (select value from json_each(${p.names}))`,
    ),

    list: statement<{ prefix: string }>(
      engine,
      (p) => sql`
        select name, owner, cast(token as text) as token, holder, expires_at - ${now} as remaining, ${waiters} as waiters
        from ${locks} as l
        where substr(name, 1, length(${p.prefix})) = ${p.prefix} and not ${free}
        order by name`,
    ),

    inspect: statement<{ name: string }>(
      engine,
      (p) => sql`
        select name, owner, cast(token as text) as token, holder, expires_at - ${now} as remaining, ${waiters} as waiters
        from ${locks} as l
        where name = ${p.name} and not ${free}`,
    ),

    forceRelease: statement<{ name: string }>(
      engine,
      (p) => sql`
        update ${locks} as l
        set owner = null, handed_to = null, token = max(token + 1, ${clockToken}), expires_at = ${now}
        where name = ${p.name} and not ${free}
        returning 1 as forced`,
    ),

    // A row whose token is ahead of the clock stays: a new row of that name would start at the clock, below it.
    purge: statement<{ idleMs: number }>(
      engine,
      (p) => sql`
        delete from ${locks}
        where expires_at <= ${now} - ${p.idleMs} and token < ${clockToken}
          and not exists (select 1 from json_each(queue) where value ->> 'until' > ${now})
        returning 1 as purged`,
    ),
  }
}

export function administration({
  runner,
  fragments,
}: Context<never>): Pick<Store<never>, 'poll' | 'inspect' | 'list' | 'forceRelease' | 'purge'> {
  const statements = administrationStatements(fragments)
  return {
    async poll(names) {
      return (await runner.run(statements.poll({ names: JSON.stringify(names) }))).rows.map(toView)
    },

    async inspect(name) {
      const [row] = (await runner.run(statements.inspect({ name }))).rows
      return row === undefined ? null : toState(row)
    },

    async list(prefix) {
      return (await runner.run(statements.list({ prefix }))).rows.map(toState)
    },

    async forceRelease(name) {
      try {
        return (await runner.run(statements.forceRelease({ name }))).rows.length === 1 ? 'released' : 'free'
      } catch (error) {
        // A busy file is to us what a locked row is on other engines.
        if (error instanceof DatabaseError && error.failure === 'conflict') return 'locked'
        throw error
      }
    },

    async purge(idleMs) {
      return (await runner.run(statements.purge({ idleMs }))).rows.length
    },
  }
}
