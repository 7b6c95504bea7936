import { engines } from '../engines.ts'
import { overlapsSuite } from './overlaps.ts'

for (const engine of engines()) {
  if (engine.server === undefined) continue
  // An adapter is as good at one level as at another; the engines are tried at each by their own drivers.
  const isOwnDriver = engine.connector === 'pg' || engine.connector === 'mysql2'
  overlapsSuite(engine, {
    runs: isOwnDriver ? 15 : 8,
    isolations: isOwnDriver ? engine.isolations : ['read committed'],
  })
}
