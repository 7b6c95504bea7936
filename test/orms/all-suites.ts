import { describe } from 'vitest'
import { ownConnectionSuite } from '../race/own-connection.ts'
import { textSuite } from '../store/queue.ts'
import { overlapsSuite } from '../within/overlaps.ts'
import { smallPoolsSuite } from '../within/small-pools.ts'
import { type Orm, ormEngines } from './connectors.ts'
import { type OrmEngine, oncePerEngine } from './engines.ts'
import { ormSuite } from './suite.ts'

/** All that an ORM has to pass. `ownConnection` is for one that needs help to have a connection of rowlock's own. */
export function allSuites(orm: Orm, ownConnection: (engine: OrmEngine) => void = ownConnectionSuite): void {
  const engines = ormEngines(orm)
  // One loop for each suite: engines run side by side where they follow each other.
  for (const engine of engines) ormSuite(engine)
  // Not so this one: it does not wait, and what was handed over has to be confirmed within a second.
  for (const engine of engines) describe(engine.name, { timeout: 60_000 }, () => textSuite(engine))
  const some = oncePerEngine(engines)
  for (const engine of some) overlapsSuite(engine, { runs: 8, isolations: ['read committed'] })
  for (const engine of some) smallPoolsSuite(engine)
  for (const engine of some) ownConnection(engine)
}
