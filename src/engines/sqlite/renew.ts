import { sql } from 'kysely'
import * as lockRow from '../../protocol/lock-row.ts'
import type { Hold, Renewal, Store } from '../../protocol/store.ts'
import { ofEachKind } from '../kinds.ts'
import { statement } from '../statement.ts'
import type { Context } from './context.ts'
import { engine, type Fragments, now } from './fragments.ts'
import { byName, toJson } from './rows.ts'
import { ofKnown } from './steps.ts'

export function renewStatements({ locks }: Fragments) {
  return {
    // A renewal never shortens: a late one is harmless.
    renew: statement<{ holds: string }>(
      engine,
      (p) => sql`
        update ${locks} as l
        set expires_at = max(l.expires_at, ${now} + asked.value ->> 'ttlMs'), handed_to = null
        from json_each(${p.holds}) as asked
        where l.name = asked.value ->> 'name'
          and l.owner = asked.value ->> 'owner'
          and l.token = cast(asked.value ->> 'token' as integer)
          and l.expires_at > ${now}
        returning name, expires_at - ${now} as remaining`,
    ),
  }
}

export function renew({ runner, fragments, file, steps }: Context<never>): Store<never>['renew'] {
  const statements = renewStatements(fragments)
  // A power failure ends the holder, too.
  const durable = false

  async function renewExclusive(holds: readonly Renewed[]): Promise<Renewal[]> {
    const renewed = byName((await runner.run({ ...statements.renew({ holds: toJson(holds) }), durable })).rows)
    return holds.map(({ name }) => {
      const row = renewed.get(name)
      return row ? { outcome: 'renewed', remainingMs: Number(row.remaining) } : LOST
    })
  }

  return async (holds) => {
    if (file.isAnother() !== null) return holds.map(() => LOST)
    return ofEachKind(
      holds,
      ({ slot }) => slot === undefined,
      renewExclusive,
      (shared) => steps.step(shared, ofKnown<Renewed, Renewal>(LOST, lockRow.renew), { durable }),
    )
  }
}

type Renewed = Hold & { readonly ttlMs: number }

const LOST: Renewal = { outcome: 'lost', remainingMs: 0 }
