import { sql } from 'kysely'
import { DatabaseError } from '../../base/errors.ts'
import * as lockRow from '../../protocol/lock-row.ts'
import type { Store } from '../../protocol/store.ts'
import { statement } from '../statement.ts'
import type { Context } from './context.ts'
import { clockToken, engine, type Fragments, free, now, seen, unshared } from './fragments.ts'
import { markPurger } from './marks.ts'
import { toSeen } from './rows.ts'
import { type Decide, ofKnown } from './steps.ts'
import { waitPurger } from './waits.ts'

export function administrationStatements({ locks }: Fragments) {
  return {
    list: statement<{ prefix: string }>(
      engine,
      (p) => sql`
        select ${seen}
        from ${locks} as l
        where substr(name, 1, length(${p.prefix})) = ${p.prefix} and not (${free} and ${unshared})
        order by name`,
    ),

    // A row whose token is ahead of the clock stays: a new row of that name would start at the clock, below it.
    purge: statement<{ idleMs: number }>(
      engine,
      (p) => sql`
        delete from ${locks}
        where expires_at <= ${now} - ${p.idleMs} and token < ${clockToken}
          and not exists (select 1 from json_each(queue) where value ->> 'until' > ${now})
          and not exists (select 1 from json_each(shares) where value ->> 'until' > ${now} - ${p.idleMs})
        returning 1 as purged`,
    ),
  }
}

export function administration({
  runner,
  fragments,
  steps,
}: Context<never>): Pick<Store<never>, 'poll' | 'inspect' | 'list' | 'forceRelease' | 'purge'> {
  const statements = administrationStatements(fragments)
  const purgeWaits = waitPurger({ runner, fragments })
  const purgeMarks = markPurger({ runner, fragments })
  return {
    async poll(names) {
      const found = await steps.found(names.map((name) => ({ name })))
      return found.map(({ row, world }) => lockRow.view(row, world))
    },

    async inspect(name) {
      const [found] = await steps.found([{ name }])
      return found === undefined ? null : lockRow.state(found.row, found.world)
    },

    async list(prefix) {
      const { rows } = await runner.run(statements.list({ prefix }))
      const states = rows.map(toSeen).map(({ row, world }) => lockRow.state(row!, world))
      return states.filter((state) => state !== null)
    },

    async forceRelease(name, token) {
      try {
        const [outcome] = await steps.step([{ name }], forceRelease(token))
        return outcome!
      } catch (error) {
        // A busy file is to us what a locked row is on other engines.
        if (error instanceof DatabaseError && error.failure === 'conflict') return 'locked'
        throw error
      }
    },

    async purge(idleMs) {
      await purgeWaits()
      const { rows } = await runner.run(statements.purge({ idleMs }))
      await purgeMarks(idleMs)
      return rows.length
    },
  }
}

function forceRelease(token: bigint | undefined): Decide<{ readonly name: string }, 'released' | 'free' | 'locked'> {
  return ofKnown('free', (row, _, world) => lockRow.forceRelease(row, token, world))
}
